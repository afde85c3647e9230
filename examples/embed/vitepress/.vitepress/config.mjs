export default {
  title: "Samples",
  vue: { template: { compilerOptions: { isCustomElement: (tag) => tag === "consistency-sampler" } } },
  vite: { optimizeDeps: { exclude: ["consistency-sampler"] } },
};
