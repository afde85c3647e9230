export default {
  base: "./",
  esbuild: { jsx: "automatic" },
  optimizeDeps: { exclude: ["consistency-sampler"] },
};
