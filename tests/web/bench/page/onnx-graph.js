// The exported graph in onnxruntime-web, whatever executes it.

/** What `serve` needs, for a build of onnxruntime-web and one of its execution providers. */
export function onnxRuntime(ort, provider) {
  // Threads would need a page that is isolated from others, and are not what is measured.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/onnxruntime/dist/";
  let session;
  let channels;
  return {
    async load({ onnx, batch }) {
      session = await ort.InferenceSession.create(onnx, {
        executionProviders: [provider],
        graphOptimizationLevel: "all",
        freeDimensionOverrides: { batch },
      });
      channels = session.inputMetadata.find(({ name }) => name === "time").shape[1];
    },
    async forward({ sample, shape, timestep, labels }) {
      const batch = timestep.length;
      const inputs = {
        sample: new ort.Tensor("float32", sample, [batch, ...shape]),
        time: new ort.Tensor("float32", timeFeatures(timestep, channels), [batch, channels]),
      };
      if (labels) inputs.labels = new ort.Tensor("int32", Int32Array.from(labels), [batch]);
      const { output } = await session.run(inputs);
      return output.getData();
    },
  };
}

/** diffusers' `get_timestep_embedding` for flip_sin_to_cos and freq_shift 0: (B, dim), angles rounded to f32 as there. */
function timeFeatures(timesteps, dim) {
  const { fround } = Math;
  const half = dim / 2;
  const features = new Float32Array(timesteps.length * dim);
  timesteps.forEach((t, row) => {
    for (let k = 0; k < half; k++) {
      const exponent = fround(fround(fround(-Math.log(10_000)) * k) / half);
      const angle = fround(t * fround(Math.exp(exponent)));
      features[row * dim + k] = Math.cos(angle);
      features[row * dim + half + k] = Math.sin(angle);
    }
  });
  return features;
}
