//! Ids of models.

use std::fmt;

/// A model on a hub, `owner/name` or `owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelId {
    /// `owner/name`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl ModelId {
    /// Parses an id; `None` for any other text. Both parts make names of folders, so none begins with a dot.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, own) = name.split_once('/')?;
        let is_valid = is_plain(owner) && is_plain(own) && revision.split('/').all(is_plain);
        is_valid.then(|| Self { name: name.to_owned(), revision: revision.to_owned() })
    }
}

/// The id as it is written, without the branch `main`.
impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// Whether a text is a file name of letters, digits, `-`, `_` and `.` that begins with none of `-` and `.`.
pub(super) fn is_plain(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && !text.starts_with(['-', '.']) && text.bytes().all(is_allowed)
}

/// Whether a text is a whole commit hash, whose files never change.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_an_owner_and_a_name_and_perhaps_a_revision() {
        let parsed = |text: &str| ModelId::parse(text).map(|id| (id.name, id.revision));
        let id = |name: &str, revision: &str| Some((name.to_owned(), revision.to_owned()));
        assert_eq!(parsed("openai/diffusers-cd_imagenet64_l2"), id("openai/diffusers-cd_imagenet64_l2", "main"));
        assert_eq!(parsed("a/b@refs/pr/1"), id("a/b", "refs/pr/1"));
        assert_eq!(ModelId::parse("a/b@v1.0").unwrap().to_string(), "a/b@v1.0");
        assert_eq!(ModelId::parse("a/b").unwrap().to_string(), "a/b");
        for text in ["a", "a/b/c", "/a", "./a", "a/..", "../a", "a/b@", "a/b@../c", "a/b@c@d", "a\\b", "a/b c", ""] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
