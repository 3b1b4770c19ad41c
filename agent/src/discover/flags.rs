//! How an etcd process was configured: its flags, environment and configuration file, with etcd's own precedence.
//!
//! etcd reads a configuration file *instead of* everything else: when `--config-file` (or `ETCD_CONFIG_FILE`) is set,
//! other flags and variables are ignored. Without one, a flag beats its variable, and the last flag of a name wins
//! (`server/etcdmain/config.go`).

use std::collections::HashMap;

/// Flags of etcd without a value of their own. `--flag next` must not take `next` for their value.
const BOOLEAN_FLAGS: &[&str] = &[
    "auto-tls",
    "peer-auto-tls",
    "client-cert-auth",
    "peer-client-cert-auth",
    "client-crl-file-disabled",
    "force-new-cluster",
    "strict-reconfig-check",
    "enable-v2",
    "enable-pprof",
    "enable-grpc-gateway",
    "pre-vote",
    "debug",
    "version",
    "help",
    "h",
    "socket-reuse-port",
    "socket-reuse-address",
    "unsafe-no-fsync",
    "v2-deprecation",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
];

/// Whether a command line is that of a member. etcd also prints its version or its flags and ends, and is a gateway or a proxy to
/// other members (`server/etcdmain/main.go`, `config.go`). The environment has no say in that, `ETCD_VERSION` least of all.
pub fn is_member(command_line: &[u8]) -> bool {
    if matches!(command_line.split(|byte| *byte == 0).nth(1), Some(b"gateway" | b"grpc-proxy")) {
        return false;
    }
    let options = Options { values: flags(command_line) };
    !options.is_on("version") && !["help", "h"].iter().any(|name| options.values.contains_key(*name))
}

/// Values of etcd's settings by flag name, from whichever source counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    values: HashMap<String, String>,
}

impl Options {
    /// The value of a setting; `None` when unset or empty, which etcd treats alike.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// True when a boolean setting is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| matches!(value, "true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    /// The parts of a comma-separated setting.
    pub fn parts(&self, name: &str) -> Vec<String> {
        let text = self.value(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// From command line (program name first) and environment, as `\0`-separated lists. Bytes that are not UTF-8 are
    /// replaced, since they can't be part of a name that counts here.
    pub fn from_process(command_line: &[u8], environment: &[u8]) -> Self {
        let mut values = variables(environment);
        values.extend(flags(command_line));
        Self { values }
    }

    /// From a configuration file in etcd's YAML form. Nested sections are flattened to the flag that they stand for.
    ///
    /// # Errors
    /// The parser's words when it is not YAML or not a mapping.
    pub fn from_file(text: &str) -> Result<Self, String> {
        // Where it is not YAML, but nothing of what it says: anybody may name any file here. The parser bounds nesting and what
        // aliases unfold to.
        let root: serde_json::Value =
            serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
        let serde_json::Value::Object(entries) = root else {
            return Err("not a mapping of settings".to_owned());
        };
        let mut values = HashMap::new();
        for (key, value) in entries {
            match (key.as_str(), value) {
                ("client-transport-security", serde_json::Value::Object(section)) => {
                    values
                        .extend(section.into_iter().filter_map(|(key, value)| Some((key, text_of(value)?))));
                }
                ("peer-transport-security", serde_json::Value::Object(section)) => {
                    let named = section.into_iter().filter_map(|(key, value)| Some((key, text_of(value)?)));
                    values.extend(named.map(|(key, value)| (format!("peer-{key}"), value)));
                }
                (_, value) => values.extend(text_of(value).map(|value| (key, value))),
            }
        }
        Ok(Self { values })
    }
}

fn text_of(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => Some(value.to_string()),
        // `log-outputs` is a list in the file.
        serde_json::Value::Array(parts) => {
            Some(parts.into_iter().filter_map(text_of).collect::<Vec<_>>().join(","))
        }
        _ => None,
    }
}

fn variables(environment: &[u8]) -> HashMap<String, String> {
    let mut values = HashMap::new();
    for entry in environment.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        if let Some((name, value)) = entry.strip_prefix("ETCD_").and_then(|rest| rest.split_once('=')) {
            values.insert(name.to_lowercase().replace('_', "-"), value.to_owned());
        }
    }
    values
}

fn flags(command_line: &[u8]) -> HashMap<String, String> {
    let arguments: Vec<_> =
        command_line.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy).collect();
    let mut values = HashMap::new();
    let mut rest = arguments.iter().map(AsRef::as_ref).peekable();
    while let Some(argument) = rest.next() {
        let argument: &str = argument;
        let Some(name) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else { continue };
        if let Some((name, value)) = name.split_once('=') {
            values.insert(name.to_owned(), value.to_owned());
            continue;
        }
        // Go's flag package: anything but a boolean takes the next argument, whatever it looks like. For a flag that
        // this list does not know, an argument that begins like a flag is taken for one, negative numbers excepted.
        let next = rest.next_if(|next: &&str| {
            !BOOLEAN_FLAGS.contains(&name) && (!next.starts_with('-') || next.parse::<f64>().is_ok())
        });
        values.insert(name.to_owned(), next.unwrap_or("true").to_owned());
    }
    values.remove("");
    values
}

#[cfg(test)]
mod tests;
