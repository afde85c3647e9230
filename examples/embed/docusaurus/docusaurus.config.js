// Below static/sampler/ are the files of dist/.
const baseUrl = process.env.BASE_URL ?? "/";
module.exports = {
  title: "Samples",
  url: "https://example.com",
  baseUrl,
  scripts: [{ src: `${baseUrl}sampler/define.js`, type: "module" }],
  presets: [["classic", { docs: { routeBasePath: "/" }, blog: false }]],
};
