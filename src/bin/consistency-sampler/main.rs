//! The command line: the library's interpreters over files.

mod console;
mod convert;
mod device;
mod edit;
#[cfg(feature = "train")]
mod evaluate;
mod example;
mod files;
mod forward;
#[cfg(feature = "train")]
mod guidance;
#[cfg(feature = "train")]
mod losses;
#[cfg(feature = "train")]
mod plan;
#[cfg(feature = "train")]
mod report;
mod sample;
mod signals;
#[cfg(feature = "train")]
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use consistency_sampler::Result;

/// Consistency models: one network call from noise to an image, more calls for a better one.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw samples, as diffusers' ConsistencyModelPipeline does
    #[command(after_help = example::SAMPLE)]
    Sample(sample::Arguments),
    /// Change a picture: inpaint, colorize, add detail, follow strokes, denoise, interpolate
    #[command(after_help = example::EDIT)]
    Edit(edit::Arguments),
    /// Call the bare U-Net, as diffusers' UNet2DModel is called
    #[command(after_help = example::FORWARD)]
    Forward(forward::Arguments),
    /// Store a model's weights in fewer bits: half precision, or 8 bits with a scale for each output channel
    #[command(after_help = example::CONVERT)]
    Convert(convert::Arguments),
    /// Train a consistency model, or the denoiser that teaches one
    #[cfg(feature = "train")]
    #[command(after_help = example::TRAIN)]
    Train(train::Arguments),
    /// Measure samples against real data: class accuracy, Fréchet distance, copies
    #[cfg(feature = "train")]
    #[command(after_help = example::EVALUATE)]
    Evaluate(evaluate::Arguments),
    /// Print a script that completes the commands and options in a shell
    #[command(after_help = example::COMPLETIONS)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Prints a shell's script.
fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "consistency-sampler", &mut script);
    console::print(String::from_utf8_lossy(&script).trim_end())
}

/// The exit status of what could be done.
fn run(command: &Command) -> Result<ExitCode> {
    signals::let_limits_be_errors()?;
    match command {
        #[cfg(feature = "train")]
        Command::Train(arguments) => return train::run(arguments),
        Command::Sample(arguments) => sample::run(arguments),
        Command::Edit(arguments) => edit::run(arguments),
        Command::Forward(arguments) => forward::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
        Command::Completions { shell } => completions(*shell),
        #[cfg(feature = "train")]
        Command::Evaluate(arguments) => evaluate::run(arguments),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(status) => status,
        Err(e) => {
            console::note(format_args!("error: {e}"));
            ExitCode::FAILURE
        }
    }
}
