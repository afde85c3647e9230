// This project's module for browsers without WebGPU.

import { serve, stream, text } from "./serve.js";
import init, { Device, Loader } from "/pkg-cpu/consistency_sampler.js";

let model;

serve({
  async load({ folder }) {
    await init();
    const files = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];
    const configs = await Promise.all(files.map((file) => text(folder + file)));
    const loader = new Loader(await Device.request(), ...configs, true);
    await stream(`${folder}unet/diffusion_pytorch_model.safetensors`, (chunk) => loader.push(chunk));
    loader.endFile();
    model = loader.finish();
  },
  forward: ({ sample, timestep, labels }) => model.forward(sample, timestep, labels ?? undefined),
});
