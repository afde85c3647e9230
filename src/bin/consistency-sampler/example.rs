//! What `--help` of each command ends with.

pub const SAMPLE: &str = "\
Example: ten digits in two network calls
  consistency-sampler sample --model weights/mnist --seed 1 --batch 10 --class-labels 0,1,2,3,4,5,6,7,8,9 \\
      --num-inference-steps 2 --output digits.png";

pub const EDIT: &str = "\
Example: four ways to fill the white part of hole.png
  consistency-sampler edit --model weights/mnist --kind inpaint --input seven.png --mask hole.png --class-labels 7 \\
      --batch 4 --output filled.png";

pub const FORWARD: &str = "\
Example:
  consistency-sampler forward --model weights/mnist --input inputs.safetensors --output outputs.safetensors";

pub const CONVERT: &str = "\
Example: half of the bytes
  consistency-sampler convert --model weights/mnist --precision f16 --output half";

#[cfg(feature = "train")]
pub const TRAIN: &str = "\
Example: a model of your pictures in an hour, a folder for each class; the same command with --resume goes on after a stop
  consistency-sampler train --data pictures --output mine --minutes 60

Example: one recipe, from a trained model
  consistency-sampler train --recipe ect --data mnist/ --init weights/mnist --output mine --minutes 60";

#[cfg(feature = "train")]
pub const EVALUATE: &str = "\
Example:
  consistency-sampler evaluate --model mine --data mnist/ --samples 2000 --num-inference-steps 2 --report mine.html";

pub const COMPLETIONS: &str = "\
Example:
  consistency-sampler completions bash > ~/.local/share/bash-completion/completions/consistency-sampler";
