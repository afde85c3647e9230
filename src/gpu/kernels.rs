//! The WGSL kernels and how they are specialised.
//!
//! A kernel is one file under `kernels/`; its header states layout, tiling, traffic, and the parameters and constants
//! that it takes. The stride and other values that change the code are constants; sizes are parameters in a uniform, so
//! that layers share pipelines: a cold page waits for their compilation.
//!
//! Register tiles need code that is written out, and WGSL has no macros. So a kernel may say
//!
//! ```text
//! @for i in COLUMNS
//!     let v$i = load(first + ${i*STRIDE});
//! @end
//! ```
//!
//! where `COLUMNS` is a constant of the kernel or a number, `$i` becomes 0, 1, … and `${…}` a sum of products of loop
//! variables, constants and numbers. [`expand`] does it when a pipeline is made; [`stripped!`] takes comments and
//! indentation away when this crate is compiled, since a page downloads the rest.

use std::fmt::{Display, Write};

#[cfg(feature = "gradient")]
use super::gradient::kernels::Reverse;
use crate::checkpoint::tensor::Precision;
use crate::json::number;

/// A kernel file without its comments and indentation, as a string that the compiler makes.
macro_rules! stripped {
    ($file:literal) => {{
        const TEXT: &str = include_str!($file);
        const LEN: usize = strip(TEXT, &mut [0; TEXT.len()]);
        const BYTES: [u8; LEN] = {
            let mut all = [0; TEXT.len()];
            strip(TEXT, &mut all);
            *all.first_chunk().expect("as long as was found")
        };
        const STRIPPED: &str = match std::str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("a kernel's code is UTF-8"),
        };
        STRIPPED
    }};
}

/// Which file a pipeline is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kernel {
    Conv,
    Gemm,
    Tiled,
    Norm,
    Attention,
    Embedding,
    Precondition,
    Denoise,
    /// A kernel of the reverse pass.
    #[cfg(feature = "gradient")]
    Reverse(Reverse),
}

impl Kernel {
    /// The files that make it up; a product's are chosen by how its weights are stored.
    fn source(self, precision: Precision) -> [&'static str; 4] {
        const PARAMS: &str = stripped!("kernels/params.wgsl");
        const STEP: &str = stripped!("kernels/step.wgsl");
        const EPILOGUE: &str = stripped!("kernels/epilogue.wgsl");
        let weights = match precision {
            Precision::F32 => stripped!("kernels/weights_f32.wgsl"),
            Precision::F16 => stripped!("kernels/weights_f16.wgsl"),
            Precision::I8 => stripped!("kernels/weights_i8.wgsl"),
        };
        match self {
            Kernel::Conv => [PARAMS, EPILOGUE, weights, stripped!("kernels/conv.wgsl")],
            Kernel::Gemm => [PARAMS, EPILOGUE, weights, stripped!("kernels/gemm.wgsl")],
            Kernel::Tiled => [PARAMS, EPILOGUE, weights, stripped!("kernels/tiled.wgsl")],
            Kernel::Norm => [PARAMS, stripped!("kernels/norm.wgsl"), "", ""],
            Kernel::Attention => [PARAMS, stripped!("kernels/attention.wgsl"), "", ""],
            Kernel::Embedding => [PARAMS, stripped!("kernels/embedding.wgsl"), "", ""],
            Kernel::Precondition => [STEP, stripped!("kernels/precondition.wgsl"), "", ""],
            Kernel::Denoise => [STEP, stripped!("kernels/denoise.wgsl"), "", ""],
            #[cfg(feature = "gradient")]
            Kernel::Reverse(kernel) => {
                let [shared, own] = kernel.source();
                [PARAMS, shared, own, ""]
            }
        }
    }

    /// The bindings after the uniform at 0: how many storage buffers, and which of them are written.
    pub(crate) fn bindings(self) -> &'static [Access] {
        use Access::{Read, Write};
        match self {
            Kernel::Conv | Kernel::Gemm => &[Write, Read, Read, Read, Read, Read, Read],
            Kernel::Tiled => Kernel::Conv.bindings(),
            Kernel::Norm => &[Write, Read, Read, Read, Read, Read],
            Kernel::Attention | Kernel::Precondition => &[Write, Read],
            Kernel::Embedding => &[Write, Read, Read],
            Kernel::Denoise => &[Write, Read, Read],
            #[cfg(feature = "gradient")]
            Kernel::Reverse(kernel) => &[Write, Read, Read, Read, Read, Read, Read][..=kernel.inputs()],
        }
    }

    /// A name for the device's error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kernel::Conv => "conv",
            Kernel::Gemm => "gemm",
            Kernel::Tiled => "tiled",
            Kernel::Norm => "norm",
            Kernel::Attention => "attention",
            Kernel::Embedding => "embedding",
            Kernel::Precondition => "precondition",
            Kernel::Denoise => "denoise",
            #[cfg(feature = "gradient")]
            Kernel::Reverse(kernel) => kernel.name(),
        }
    }
}

/// A kernel's access to a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A kernel with its constants and the names of its parameters; the key of a cached pipeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Specialised {
    pub(super) kernel: Kernel,
    constants: String,
    /// The fields of `Params` after the first three.
    fields: String,
    /// How a product's weights are stored; of no meaning for other kernels, and then always the same.
    precision: Precision,
}

/// A specialised kernel with the values of its parameters.
#[derive(Debug, Clone)]
pub(super) struct Shader {
    pub(super) specialised: Specialised,
    pub(super) sizes: Vec<u32>,
}

impl Shader {
    pub(super) fn new(kernel: Kernel) -> Self {
        let specialised =
            Specialised { kernel, constants: String::new(), fields: String::new(), precision: Precision::F32 };
        Self { specialised, sizes: Vec::new() }
    }

    /// A parameter, read as `params.{name}`.
    pub(super) fn size(mut self, name: &str, value: usize) -> Self {
        write!(self.specialised.fields, " {name}: u32,").expect("writing to a string");
        self.sizes.push(u32::try_from(value).expect("sizes are bounded by the configuration"));
        self
    }

    pub(super) fn u32(self, name: &str, value: usize) -> Self {
        self.constant(name, format_args!("{value}u"))
    }

    pub(super) fn f32(self, name: &str, value: f32) -> Self {
        self.constant(name, format_args!("f32({})", number(value.into())))
    }

    pub(super) fn bool(self, name: &str, value: bool) -> Self {
        self.constant(name, value)
    }

    /// A name for a type.
    pub(super) fn alias(mut self, name: &str, of: &str) -> Self {
        writeln!(self.specialised.constants, "alias {name} = {of};").expect("writing to a string");
        self
    }

    fn constant(mut self, name: &str, value: impl Display) -> Self {
        writeln!(self.specialised.constants, "const {name} = {value};").expect("writing to a string");
        self
    }
}

#[cfg(feature = "gradient")]
impl Shader {
    /// The number that a launch gives its kernel under a name, be it a parameter or a constant; `None` when the kernel has
    /// none of that name.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        let fields = self.specialised.fields.split(',').map(|field| field.trim().strip_suffix(": u32"));
        let size = fields.zip(&self.sizes).find(|(field, _)| *field == Some(name));
        let constant = || match self.constant_text(name)? {
            "true" => Some(1),
            "false" => Some(0),
            text => text.strip_suffix('u')?.parse().ok(),
        };
        size.map(|(_, &size)| size as usize).or_else(constant)
    }

    /// A constant that is no whole number.
    pub(super) fn fraction(&self, name: &str) -> Option<f32> {
        self.constant_text(name)?.strip_prefix("f32(")?.strip_suffix(')')?.parse().ok()
    }

    fn constant_text(&self, name: &str) -> Option<&str> {
        let mut lines = self.specialised.constants.lines();
        lines.find_map(|line| line.strip_prefix("const ")?.strip_prefix(name)?.strip_prefix(" = ")?.strip_suffix(';'))
    }
}

impl Specialised {
    /// The same kernel for weights that are stored at `precision`.
    pub(super) fn at(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    /// The whole shader.
    pub(super) fn wgsl(&self) -> String {
        let mut text = String::new();
        if self.constants.contains("h;\n") {
            text.push_str("enable f16;\n");
        }
        text.push_str(&self.constants);
        text.push_str("struct Params { batch: u32, time_offset: u32, time_pitch: u32,");
        text.push_str(&self.fields);
        text.push_str(" }\n");
        for part in self.kernel.source(self.precision) {
            expand(part.lines(), &self.numbers(), &mut text);
        }
        text
    }

    /// The constants that are whole numbers, for [`expand`].
    fn numbers(&self) -> Vec<(&str, usize)> {
        fn number(line: &str) -> Option<(&str, usize)> {
            let (name, value) = line.strip_prefix("const ")?.strip_suffix("u;")?.split_once(" = ")?;
            Some((name, value.parse().ok()?))
        }
        self.constants.lines().filter_map(number).collect()
    }
}

/// Writes `lines` with their `@for` blocks repeated and their `$`s replaced.
///
/// A mistake in a kernel file panics; every kernel is expanded by the tests.
fn expand<'a>(lines: impl Iterator<Item = &'a str> + Clone, names: &[(&'a str, usize)], text: &mut String) {
    let mut lines = lines;
    while let Some(line) = lines.next() {
        let Some(head) = line.trim_start().strip_prefix("@for ") else {
            substitute(line, names, text);
            text.push('\n');
            continue;
        };
        let (name, count) = head.split_once(" in ").expect("@for NAME in COUNT");
        let mut depth = 1;
        let body: Vec<&str> = lines
            .by_ref()
            .take_while(|line| {
                let line = line.trim_start();
                depth += usize::from(line.starts_with("@for "));
                depth -= usize::from(line == "@end");
                depth > 0
            })
            .collect();
        for i in 0..evaluate(count, names) {
            let inner: Vec<_> = names.iter().copied().chain([(name, i)]).collect();
            expand(body.iter().copied(), &inner, text);
        }
    }
}

/// Writes a line with each `$name` and `${sum}` replaced by its value.
fn substitute(line: &str, names: &[(&str, usize)], text: &mut String) {
    let mut parts = line.split('$');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (sum, rest) = match part.strip_prefix('{') {
            Some(part) => part.split_once('}').expect("a closing brace"),
            None => part.split_at(1),
        };
        write!(text, "{}{rest}", evaluate(sum, names)).expect("writing to a string");
    }
}

/// A sum of products of names and numbers.
fn evaluate(sum: &str, names: &[(&str, usize)]) -> usize {
    let factor = |word: &str| {
        let named = || names.iter().rev().find(|(name, _)| *name == word).map(|(_, value)| *value);
        word.parse().ok().or_else(named).expect("a number or a name")
    };
    sum.split('+').map(|product| product.split('*').map(factor).product::<usize>()).sum()
}

/// Copies `text` into `out` without comments, indentation and empty lines; returns how many bytes that is.
const fn strip(text: &str, out: &mut [u8]) -> usize {
    let text = text.as_bytes();
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let line_start = to == 0 || out[to - 1] == b'\n';
        if text[from] == b'/' && from + 1 < text.len() && text[from + 1] == b'/' {
            while from < text.len() && text[from] != b'\n' {
                from += 1;
            }
        } else if line_start && (text[from] == b' ' || text[from] == b'\n') {
            from += 1;
        } else {
            // Blanks before a comment or at the end of a line go with it.
            if text[from] == b'\n' {
                while out[to - 1] == b' ' {
                    to -= 1;
                }
            }
            out[to] = text[from];
            to += 1;
            from += 1;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_indentation_go_and_code_stays() {
        let text = "// Head.\n\nfn f() {\n    a / b; // why\n\n    // alone\n    c;\n}\n";
        let mut out = vec![0; text.len()];
        let len = strip(text, &mut out);
        assert_eq!(std::str::from_utf8(&out[..len]).unwrap(), "fn f() {\na / b;\nc;\n}\n");
    }

    #[test]
    fn blocks_repeat_and_sums_are_taken() {
        let text = "a\n@for i in N\n@for k in 2\nlet v$i_$k = w${i*S+k+1};\n@end\n@end\nb";
        let mut out = String::new();
        expand(text.lines(), &[("N", 2), ("S", 10)], &mut out);
        let lines = ["a", "let v0_0 = w1;", "let v0_1 = w2;", "let v1_0 = w11;", "let v1_1 = w12;", "b", ""];
        assert_eq!(out, lines.join("\n"));
    }
}
