//! Reads a settings file into dotted keys.

use std::path::Path;

use serde_json::Value;

/// Largest settings file that is read, in bytes: a mistaken path must not fill the memory.
const MAX_BYTES: u64 = 1 << 20;

/// Why a settings file was refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is too large to be a settings file.
    #[error("has {0} bytes, more than a settings file can have")]
    TooLarge(u64),
    /// The ending says neither TOML nor YAML.
    #[error("must end in .toml, .yaml or .yml")]
    Ending,
    /// It does not parse.
    #[error("does not parse: {0}")]
    Syntax(String),
    /// The top level is not a table.
    #[error("must be a table of settings")]
    NotATable,
}

/// (dotted key, values) of every entry; a single value is a list of one.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Vec<String>)>, FileError> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_BYTES {
        return Err(FileError::TooLarge(size));
    }
    let text = std::fs::read_to_string(path)?;
    let tree: Value = match path.extension().and_then(|ending| ending.to_str()) {
        Some("toml") => toml::from_str(&text).map_err(|error| FileError::Syntax(error.to_string()))?,
        Some("yaml" | "yml") if text.trim().is_empty() => Value::Null,
        Some("yaml" | "yml") => {
            serde_saphyr::from_str(&text).map_err(|error| FileError::Syntax(error.to_string()))?
        }
        _ => return Err(FileError::Ending),
    };
    let mut entries = Vec::new();
    match tree {
        Value::Null => {}
        Value::Object(_) => flatten("", &tree, &mut entries),
        _ => return Err(FileError::NotATable),
    }
    Ok(entries)
}

fn flatten(key: &str, value: &Value, entries: &mut Vec<(String, Vec<String>)>) {
    match value {
        Value::Object(table) => {
            for (name, inner) in table {
                let name = name.replace('_', "-");
                let path = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(&path, inner, entries);
            }
        }
        Value::Array(items) => entries.push((key.to_owned(), items.iter().map(text).collect())),
        single => entries.push((key.to_owned(), vec![text(single)])),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
