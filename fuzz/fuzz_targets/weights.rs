//! Safetensors, whatever its bytes and however they are cut: no panic, the same outcome for every cut, and nothing is
//! taken for complete that is not.
//!
//! The first byte chooses the length of the chunks and whether the length field is written here, so that a mutated
//! header is not merely one of a wrong length.
#![no_main]

use std::collections::BTreeMap;

use consistency_sampler::model::unet::Parameter;
use consistency_sampler::checkpoint::stream::WeightStream;
use consistency_sampler::checkpoint::tensor::Arrival;
use consistency_sampler::{Error, Result};
use libfuzzer_sys::fuzz_target;

fn parameters() -> Vec<Parameter> {
    let shapes: [(&str, &[usize]); 4] = [("a", &[2, 3]), ("b", &[5]), ("c", &[1]), ("long", &[4, 2, 2])];
    shapes.map(|(name, shape)| Parameter { name: name.into(), shape: shape.to_vec() }).into()
}

/// What one reading comes to: the values by tensor, or the message.
fn read(bytes: &[u8], chunk: usize) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut stream = WeightStream::new(&parameters(), true, |name| (name == "long").then_some(1));
    let mut found = BTreeMap::<String, Vec<f32>>::new();
    for part in bytes.chunks(chunk) {
        stream.push(part, &mut |arrival| {
            let Arrival::Rows(rows) = arrival else { return Ok(()) };
            let values = rows.to_f32();
            let so_far = found.entry(rows.name.to_owned()).or_default();
            let of_row = if rows.name == "long" { 4 } else { values.len() };
            assert_eq!(rows.first * of_row, so_far.len(), "rows come in order");
            so_far.extend(values);
            Ok(())
        })?;
    }
    stream.end_file()?;
    stream.finish()?;
    Ok(found)
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let mut bytes = rest.to_vec();
    if first & 1 == 1 {
        // Up to the last brace it is a header, after it come the tensors.
        let length = rest.iter().rposition(|&b| b == b'}').map_or(rest.len(), |at| at + 1);
        bytes.splice(..0, (length as u64).to_le_bytes());
    }
    let whole = read(&bytes, bytes.len().max(1));
    let parts = read(&bytes, usize::from(first >> 1) + 1);
    match (whole, parts) {
        (Ok(whole), Ok(parts)) => {
            let expected: Vec<_> = parameters().iter().map(|p| p.shape.iter().product::<usize>()).collect();
            assert_eq!(whole.values().map(Vec::len).collect::<Vec<_>>(), expected);
            assert_eq!(whole, parts);
            assert!(whole.values().flatten().all(|v| v.is_finite()));
        }
        (Err(Error::Weights(whole)), Err(Error::Weights(parts))) => {
            // How much of a file was seen when it was refused depends on the cut; that it was refused does not.
            assert!(!whole.is_empty() && !parts.is_empty());
        }
        (whole, parts) => panic!("in one piece {whole:?}, in parts {parts:?}"),
    }
});
