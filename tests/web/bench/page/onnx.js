// onnxruntime-web's WebGPU provider on the exported graph.

import { onnxRuntime } from "./onnx-graph.js";
import { serve } from "./serve.js";
import * as ort from "/onnxruntime/dist/ort.webgpu.bundle.min.mjs";

serve(onnxRuntime(ort, "webgpu"));
