//! The U-Net as an ONNX graph: an interpreter of [`Ops`] that writes nodes, as PyTorch's exporter writes them for
//! `UNet2DModel`.
//!
//! Inputs are `sample` (batch, C, H, W), `time` (batch, block_out_channels\[0\]) and, for a model with classes, `labels`
//! (batch); the result is `output` (batch, C, H, W). The batch is a free dimension. Weights lie in the file.

use std::collections::{HashMap, HashSet};

use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::model::unet::{Conv2d, Embedding, GroupNorm, Linear, Ops, SelfAttention, UNet};
use prost::Message;

use super::proto::{
    AttributeProto, Dimension, FLOAT, GraphProto, INT32, INT64, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};

/// Which operators stand for group normalization.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `GroupNormalization` of opset 21.
    Fused,
    /// `InstanceNormalization` over groups, then scale and bias.
    Plain,
}

/// The ONNX file of a network; `weights` holds every parameter by its checkpoint name.
pub fn export(config: &UNetConfig, weights: &HashMap<String, Vec<f32>>, style: Style) -> Vec<u8> {
    let mut graph = Onnx { style, weights, graph: GraphProto::default(), initialized: HashSet::new(), values: 0 };
    let [height, width] = config.sample_size;
    let image = [config.in_channels, height, width];
    let time = config.block_out_channels[0];
    graph.graph.name = "UNet2DModel".into();
    graph.graph.input.push(value_info("sample", FLOAT, &image));
    graph.graph.input.push(value_info("time", FLOAT, &[time]));
    if config.num_class_embeds.is_some() {
        graph.graph.input.push(value_info("labels", INT32, &[]));
    }
    let sample = Map { name: "sample".into(), tokens: false, channels: image[0], height, width };
    let labels = config.num_class_embeds.map(|_| "labels".to_owned());
    let output = UNet::new(config).forward(&mut graph, &sample, &"time".into(), labels.as_ref());
    graph.graph.node.last_mut().expect("the forward has nodes").output = vec!["output".into()];
    graph.graph.output.push(value_info("output", FLOAT, &[output.channels, output.height, output.width]));
    let model = ModelProto {
        ir_version: 10,
        producer_name: "consistency-sampler".into(),
        graph: Some(graph.graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 21 }],
    };
    model.encode_to_vec()
}

/// A feature map: (batch, C, H, W), or (batch, H·W, C) between the layers of an attention block.
#[derive(Clone)]
struct Map {
    name: String,
    tokens: bool,
    channels: usize,
    height: usize,
    width: usize,
}

/// The graph so far.
struct Onnx<'a> {
    style: Style,
    weights: &'a HashMap<String, Vec<f32>>,
    graph: GraphProto,
    initialized: HashSet<String>,
    values: usize,
}

impl Onnx<'_> {
    /// Adds a node of the standard operators; returns its first output.
    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.outputs(op, inputs, attributes, 1).remove(0)
    }

    fn outputs(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>, outputs: usize) -> Vec<String> {
        let output: Vec<String> = (self.values..self.values + outputs).map(|i| format!("{op}_{i}")).collect();
        self.values += outputs;
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: output.clone(),
            name: output[0].clone(),
            op_type: op.into(),
            attribute: attributes,
        });
        output
    }

    /// Adds an initializer unless one of that name stands already.
    fn initializer(&mut self, name: String, data_type: i32, shape: &[usize], raw: impl FnOnce() -> Vec<u8>) -> String {
        if self.initialized.insert(name.clone()) {
            let dims = shape.iter().map(|&d| d as i64).collect();
            self.graph.initializer.push(TensorProto { dims, data_type, name: name.clone(), raw_data: raw() });
        }
        name
    }

    fn floats(&mut self, name: String, shape: &[usize], values: &[f32]) -> String {
        self.initializer(name, FLOAT, shape, || values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A constant list of whole numbers, such as a shape.
    fn list(&mut self, values: &[i64]) -> String {
        let bytes = || values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(format!("list{values:?}"), INT64, &[values.len()], bytes)
    }

    fn number(&mut self, value: f32) -> String {
        self.floats(format!("number[{value}]"), &[], &[value])
    }

    /// A parameter of the checkpoint in some shape of as many elements.
    fn parameter(&mut self, name: &str, shape: &[usize]) -> String {
        let values = &self.weights[name];
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        self.floats(name.into(), shape, values)
    }

    fn weight(&mut self, layer: &str, shape: &[usize]) -> String {
        self.parameter(&format!("{layer}.weight"), shape)
    }

    fn bias(&mut self, layer: &str, shape: &[usize]) -> String {
        self.parameter(&format!("{layer}.bias"), shape)
    }

    fn reshape(&mut self, x: &str, shape: &[usize]) -> String {
        let shape: Vec<i64> = std::iter::once(0).chain(shape.iter().map(|&d| d as i64)).collect();
        let shape = self.list(&shape);
        self.node("Reshape", &[x, &shape], vec![])
    }

    fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        self.node("Transpose", &[x], vec![ints("perm", order)])
    }

    /// The name of a map as (batch, C, H, W).
    fn image(&mut self, x: &Map) -> String {
        if !x.tokens {
            return x.name.clone();
        }
        let transposed = self.transpose(&x.name, &[0, 2, 1]);
        self.reshape(&transposed, &[x.channels, x.height, x.width])
    }

    /// The name of a map as (batch, H·W, C).
    fn tokens(&mut self, x: &Map) -> String {
        if x.tokens {
            return x.name.clone();
        }
        let flat = self.reshape(&x.name, &[x.channels, x.height * x.width]);
        self.transpose(&flat, &[0, 2, 1])
    }

    /// A vector (batch, N) as (batch, N, 1, 1).
    fn over_pixels(&mut self, v: &str) -> String {
        let axes = self.list(&[2, 3]);
        self.node("Unsqueeze", &[v, &axes], vec![])
    }

    /// x·Wᵀ + b for tokens (batch, H·W, in).
    fn project(&mut self, tokens: &str, layer: &Linear) -> String {
        let weight = &self.weights[&format!("{}.weight", layer.name)];
        let transposed: Vec<f32> =
            (0..layer.input).flat_map(|i| (0..layer.output).map(move |o| weight[o * layer.input + i])).collect();
        let weight = self.floats(format!("{}.weight.T", layer.name), &[layer.input, layer.output], &transposed);
        let bias = self.bias(&layer.name, &[layer.output]);
        let product = self.node("MatMul", &[tokens, &weight], vec![]);
        self.node("Add", &[&product, &bias], vec![])
    }

    /// Heads of (batch, H·W, heads·head_dim) in another order of the axes (batch, H·W, heads, head_dim).
    fn heads(&mut self, tokens: &str, layer: &SelfAttention, pixels: usize, order: &[i64]) -> String {
        let split = self.reshape(tokens, &[pixels, layer.heads, layer.head_dim]);
        self.transpose(&split, order)
    }

    fn silu_of(&mut self, x: &str) -> String {
        let sigmoid = self.node("Sigmoid", &[x], vec![]);
        self.node("Mul", &[x, &sigmoid], vec![])
    }

    /// A map of the same shape under another name.
    fn same(x: &Map, name: String) -> Map {
        Map { name, tokens: false, ..x.clone() }
    }
}

impl Ops for Onnx<'_> {
    type Map = Map;
    type Vector = String;
    type Labels = String;

    fn conv2d(&mut self, x: &Map, layer: &Conv2d) -> Map {
        let (k, [before, after]) = (layer.kernel, layer.padding);
        let input = self.image(x);
        let weight = self.weight(&layer.name, &[layer.output, layer.input, k, k]);
        let bias = self.bias(&layer.name, &[layer.output]);
        let attributes = vec![
            ints("kernel_shape", &[k as i64; 2]),
            ints("pads", &[before, before, after, after].map(|p| p as i64)),
            ints("strides", &[layer.stride as i64; 2]),
        ];
        let name = self.node("Conv", &[&input, &weight, &bias], attributes);
        let size = |n: usize| (n + before + after - k) / layer.stride + 1;
        Map { name, tokens: false, channels: layer.output, height: size(x.height), width: size(x.width) }
    }

    fn group_norm(&mut self, x: &Map, layer: &GroupNorm) -> Map {
        let (input, eps) = (self.image(x), float("epsilon", layer.eps));
        let name = match self.style {
            Style::Fused => {
                let weight = self.weight(&layer.name, &[x.channels]);
                let bias = self.bias(&layer.name, &[x.channels]);
                let groups = int("num_groups", layer.groups);
                self.node("GroupNormalization", &[&input, &weight, &bias], vec![eps, groups])
            }
            Style::Plain => {
                let groups = layer.groups;
                let ones = self.floats(format!("ones[{groups}]"), &[groups], &vec![1.0; groups]);
                let zeros = self.floats(format!("zeros[{groups}]"), &[groups], &vec![0.0; groups]);
                let weight = self.weight(&layer.name, &[x.channels, 1, 1]);
                let bias = self.bias(&layer.name, &[x.channels, 1, 1]);
                let grouped = self.reshape(&input, &[groups, x.channels / groups * x.height * x.width]);
                let normed = self.node("InstanceNormalization", &[&grouped, &ones, &zeros], vec![eps]);
                let normed = self.reshape(&normed, &[x.channels, x.height, x.width]);
                let scaled = self.node("Mul", &[&normed, &weight], vec![]);
                self.node("Add", &[&scaled, &bias], vec![])
            }
        };
        Self::same(x, name)
    }

    fn silu(&mut self, x: &Map) -> Map {
        let input = self.image(x);
        Self::same(x, self.silu_of(&input))
    }

    fn add(&mut self, a: &Map, b: &Map) -> Map {
        let (left, right) = (self.image(a), self.image(b));
        Self::same(a, self.node("Add", &[&left, &right], vec![]))
    }

    fn add_channels(&mut self, x: &Map, v: &String) -> Map {
        let (input, v) = (self.image(x), self.over_pixels(v));
        Self::same(x, self.node("Add", &[&input, &v], vec![]))
    }

    fn scale_shift(&mut self, x: &Map, v: &String) -> Map {
        let (input, v) = (self.image(x), self.over_pixels(v));
        let halves = self.outputs("Split", &[&v], vec![int("axis", 1), int("num_outputs", 2)], 2);
        let one = self.number(1.0);
        let scale = self.node("Add", &[&halves[0], &one], vec![]);
        let scaled = self.node("Mul", &[&input, &scale], vec![]);
        Self::same(x, self.node("Add", &[&scaled, &halves[1]], vec![]))
    }

    fn concat(&mut self, a: &Map, b: &Map) -> Map {
        let (left, right) = (self.image(a), self.image(b));
        let name = self.node("Concat", &[&left, &right], vec![int("axis", 1)]);
        Map { channels: a.channels + b.channels, ..Self::same(a, name) }
    }

    fn upsample(&mut self, x: &Map) -> Map {
        let input = self.image(x);
        let scales = self.floats("twice".into(), &[4], &[1.0, 1.0, 2.0, 2.0]);
        let attributes = vec![
            string("mode", "nearest"),
            string("coordinate_transformation_mode", "asymmetric"),
            string("nearest_mode", "floor"),
        ];
        let name = self.node("Resize", &[&input, "", &scales], attributes);
        Map { height: 2 * x.height, width: 2 * x.width, ..Self::same(x, name) }
    }

    fn downsample(&mut self, x: &Map) -> Map {
        let input = self.image(x);
        let name = self.node("AveragePool", &[&input], vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]);
        Map { height: x.height / 2, width: x.width / 2, ..Self::same(x, name) }
    }

    fn attention(&mut self, x: &Map, layer: &SelfAttention) -> Map {
        let tokens = self.tokens(x);
        let [q, k, v] = [&layer.query, &layer.key, &layer.value].map(|linear| self.project(&tokens, linear));
        let channels = layer.heads * layer.head_dim;
        let pixels = x.height * x.width;
        let q = self.heads(&q, layer, pixels, &[0, 2, 1, 3]);
        let k = self.heads(&k, layer, pixels, &[0, 2, 3, 1]);
        let v = self.heads(&v, layer, pixels, &[0, 2, 1, 3]);
        let scale = self.number((layer.head_dim as f32).sqrt().recip());
        let q = self.node("Mul", &[&q, &scale], vec![]);
        let scores = self.node("MatMul", &[&q, &k], vec![]);
        let weights = self.node("Softmax", &[&scores], vec![int_at("axis", -1)]);
        let mixed = self.node("MatMul", &[&weights, &v], vec![]);
        let mixed = self.transpose(&mixed, &[0, 2, 1, 3]);
        let name = self.reshape(&mixed, &[pixels, channels]);
        Map { name, tokens: true, channels, ..x.clone() }
    }

    fn pointwise(&mut self, x: &Map, layer: &Linear) -> Map {
        let tokens = self.tokens(x);
        Map { name: self.project(&tokens, layer), tokens: true, channels: layer.output, ..x.clone() }
    }

    fn linear(&mut self, x: &String, layer: &Linear) -> String {
        let weight = self.weight(&layer.name, &[layer.output, layer.input]);
        let bias = self.bias(&layer.name, &[layer.output]);
        self.node("Gemm", &[x, &weight, &bias], vec![int("transB", 1)])
    }

    fn silu_vector(&mut self, x: &String) -> String {
        self.silu_of(x)
    }

    fn add_vector(&mut self, a: &String, b: &String) -> String {
        self.node("Add", &[a, b], vec![])
    }

    fn embedding(&mut self, labels: &String, layer: &Embedding) -> String {
        let table = self.weight(&layer.name, &[layer.rows, layer.dim]);
        self.node("Gather", &[&table, labels], vec![int("axis", 0)])
    }
}

fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type, ..Default::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, 1) }
}

fn int(name: &str, value: usize) -> AttributeProto {
    int_at(name, value as i64)
}

fn int_at(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, 2) }
}

fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.into()), ..attribute(name, 3) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, 7) }
}

/// An input or output of shape (batch, …).
fn value_info(name: &str, elem_type: i32, shape: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("batch".into()), ..Default::default() };
    let sizes = shape.iter().map(|&d| Dimension { dim_value: Some(d as i64), ..Default::default() });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(sizes).collect() };
    let tensor_type = Some(TensorType { elem_type, shape: Some(shape) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Networks that have every operation between them.
    fn networks() -> Vec<UNetConfig> {
        let config = |down: &str, up: &str, extra: &str| {
            UNetConfig::parse(&format!(
                r#"{{"_class_name": "UNet2DModel", "in_channels": 1, "out_channels": 1, "sample_size": [8, 4],
                "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1, "num_class_embeds": 3,
                "up_block_types": ["AttnUpBlock2D", "{up}"], "down_block_types": ["{down}", "AttnDownBlock2D"] {extra}}}"#
            ))
            .unwrap()
        };
        let scale_shift = r#", "resnet_time_scale_shift": "scale_shift""#;
        vec![
            config("DownBlock2D", "UpBlock2D", ""),
            config("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D", scale_shift),
        ]
    }

    #[test]
    fn every_name_is_made_once_before_it_is_used_and_every_weight_is_used() {
        for config in networks() {
            let parameters = UNet::new(&config).parameters();
            let weights: HashMap<_, _> =
                parameters.iter().map(|p| (p.name.clone(), vec![0.5; p.shape.iter().product()])).collect();
            for style in [Style::Fused, Style::Plain] {
                let model = ModelProto::decode(&*export(&config, &weights, style)).unwrap();
                let graph = model.graph.unwrap();
                let mut known: HashSet<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
                for tensor in &graph.initializer {
                    assert!(known.insert(&tensor.name), "{} is there twice", tensor.name);
                    let elements: i64 = tensor.dims.iter().product();
                    let size = if tensor.data_type == INT64 { 8 } else { 4 };
                    assert_eq!(tensor.raw_data.len() as i64, size * elements, "{}", tensor.name);
                }
                let mut used = HashSet::new();
                for node in &graph.node {
                    for input in node.input.iter().filter(|name| !name.is_empty()) {
                        assert!(known.contains(input.as_str()), "{} needs {input}", node.name);
                        used.insert(input.as_str());
                    }
                    for output in &node.output {
                        assert!(known.insert(output), "{output} is made twice");
                    }
                }
                assert!(known.contains("output"));
                for parameter in &parameters {
                    let transposed = format!("{}.T", parameter.name);
                    assert!(used.contains(&*parameter.name) || used.contains(&*transposed), "{}", parameter.name);
                }
            }
        }
    }
}
