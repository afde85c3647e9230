//! What a run was begun with, which a resumed one must have too: settings, configuration, data, teacher.

use std::fmt::Display;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::checkpoint::tensor::f32_bytes;
use crate::error::{Error, Result};
use crate::model::unet::Parameter;
use crate::train::data::Source;
use crate::train::weights::parts;

/// Names and values, in the order in which differences are looked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record(Vec<(String, String)>);

impl Record {
    /// Adds a setting, named as its option is.
    pub fn push(&mut self, name: impl Into<String>, value: impl Display) {
        self.0.push((name.into(), value.to_string()));
    }

    /// Adds each key of a configuration; those that begin with `_` change nothing.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no JSON object.
    pub fn push_config(&mut self, file: &str, json: &str) -> Result<()> {
        let parsed: Value = serde_json::from_str(json).map_err(|e| Error::Config(format!("{file}: not JSON: {e}")))?;
        let keys = parsed.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('_'));
        keys.for_each(|(key, value)| self.push(format!("{file}, {key}"), value));
        Ok(())
    }

    /// Adds the data: names of the classes, number of images, size, channels and a hash.
    pub fn push_data(&mut self, data: &Source) {
        let ([channels, height, width], (count, hash)) = (data.shape(), data.fingerprint());
        self.push("--data, classes", data.classes().len());
        for (label, name) in data.classes().iter().enumerate() {
            self.push(format!("--data, class {label}"), name);
        }
        self.push("--data, images", count.map_or("composed".into(), |n| n.to_string()));
        self.push("--data, size", format!("{height}×{width}"));
        self.push("--data, channels", channels);
        self.push("--data, hash of the images", format!("{hash:016x}"));
    }

    /// Adds a hash of a model's weights, which are in the order of its parameters.
    pub fn push_weights(&mut self, name: &str, parameters: &[Parameter], weights: &[f32]) {
        let mut parts: Vec<_> = parts(parameters, weights).collect();
        parts.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let mut hash = Sha256::new();
        for (parameter, values) in parts {
            hash.update(&parameter.name);
            hash.update(f32_bytes(values));
        }
        self.push(name, format!("weights {:.16}", format!("{:x}", hash.finalize())));
    }

    /// Names and values, in their order.
    pub fn entries(&self) -> &[(String, String)] {
        &self.0
    }

    /// Checks that `found` is the same as this, which a run was begun with.
    ///
    /// # Errors
    /// [`Error::Input`] with the first name whose values differ, and both values.
    pub fn check(&self, found: &Self) -> Result<()> {
        let value = |of: &Self, name: &str| of.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        for (name, _) in found.0.iter().chain(&self.0) {
            let (run, now) = (value(self, name), value(found, name));
            if run != now {
                let [run, now] = [run, now].map(|value| value.unwrap_or_else(|| "none".into()));
                return Err(Error::Input(format!("{name}: the run has {run}, found {now}")));
            }
        }
        Ok(())
    }

    /// As JSON, for [`Record::parse`].
    pub(super) fn to_json(&self) -> String {
        serde_json::json!(self.0).to_string()
    }

    pub(super) fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(entries: &[(&str, &str)]) -> Record {
        let mut record = Record::default();
        entries.iter().for_each(|(name, value)| record.push(*name, value));
        record
    }

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let run = record(&[("--lr", "0.001"), ("--data, class 0", "cat")]);
        assert_eq!(run.check(&run.clone()), Ok(()));
        assert_eq!(Record::parse(&run.to_json()).unwrap(), run);
        let message = |found: &[(&str, &str)]| run.check(&record(found)).unwrap_err().to_string();
        assert_eq!(message(&[("--lr", "0.002"), ("--data, class 0", "dog")]), "--lr: the run has 0.001, found 0.002");
        assert_eq!(message(&[("--lr", "0.001")]), "--data, class 0: the run has cat, found none");
        let more = [("--lr", "0.001"), ("--data, class 0", "cat"), ("--critic-lr", "1")];
        assert_eq!(message(&more), "--critic-lr: the run has none, found 1");
    }

    #[test]
    fn a_configuration_counts_by_its_keys() {
        let mut run = Record::default();
        run.push_config("unet/config.json", r#"{"_diffusers_version": "0.1", "norm_eps": 1e-5, "a": [8, 16]}"#)
            .unwrap();
        assert_eq!(run, record(&[("unet/config.json, a", "[8,16]"), ("unet/config.json, norm_eps", "0.00001")]));
        assert!(run.push_config("a", "[").is_err());
    }
}
