import "consistency-sampler/define";
export { default } from "vitepress/theme";
