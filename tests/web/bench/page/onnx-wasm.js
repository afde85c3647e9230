// onnxruntime-web's CPU provider on the exported graph, on one thread.

import { onnxRuntime } from "./onnx-graph.js";
import { serve } from "./serve.js";
import * as ort from "/onnxruntime/dist/ort.wasm.bundle.min.mjs";

serve(onnxRuntime(ort, "wasm"));
