project = "Samples"
# Below _static/sampler/ are the files of dist/.
html_static_path = ["_static"]
html_js_files = [("sampler/define.js", {"type": "module"})]
