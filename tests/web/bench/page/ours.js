// This project's plan, through the module that the page uses.

import { serve, stream, text } from "./serve.js";
import init, { Device, Loader } from "/pkg/consistency_sampler.js";

let model;

serve({
  async load({ folder }) {
    await init();
    const configs = ["unet/config.json", "scheduler/scheduler_config.json"].map((file) => text(folder + file));
    const loader = new Loader(await Device.request(), ...(await Promise.all(configs)));
    await stream(`${folder}unet/diffusion_pytorch_model.safetensors`, (chunk) => loader.push(chunk));
    model = await loader.finish();
  },
  forward: ({ sample, timestep, labels }) => model.forward(sample, timestep, labels ?? undefined),
});
