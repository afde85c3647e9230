// The same forward on burn tensors: burn-wgpu with fusion, without autotune.

import { serve, stream, text } from "./serve.js";
import init, { BurnModel } from "/burn/consistency_sampler.js";

let model;

serve({
  async load({ folder }) {
    await init();
    model = await BurnModel.request(await text(`${folder}unet/config.json`));
    await stream(`${folder}unet/diffusion_pytorch_model.safetensors`, (chunk) => model.push(chunk));
    model.end();
  },
  forward: ({ sample, timestep, labels }) => model.forward(sample, timestep, labels ?? undefined),
});
