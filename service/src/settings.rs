//! Settings in four layers: default < file (TOML or YAML) < environment < flag.
//!
//! A program declares its settings once, as a table of [`Setting`]s. From that table come the command line flags, the
//! environment variables, the keys of the file and the help text, so none of them can disagree. Everything is checked
//! at start, and all faults are reported together, each with the key and the place the value came from.
//!
//! The key `listen.token-file` of a program with the prefix `ETCD_MONITOR_AGENT` is the flag `--listen-token-file`, the
//! variable `ETCD_MONITOR_AGENT_LISTEN_TOKEN_FILE`, and in the file `token-file` in the table `listen`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

mod file;
mod value;

pub use value::{ByteSize, Millis, ParseSetting};

/// One setting of a program.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Dotted key, words separated by dashes.
    pub key: &'static str,
    /// What stands for the value in the help text, such as `ADDRESS`.
    pub value_name: &'static str,
    /// Default in its text form; empty = not set. Must parse as the type that the program reads.
    pub default: &'static str,
    /// One or more values: the flag repeats, a variable separates them by commas, the file has an array.
    pub list: bool,
    /// Values are never shown.
    pub secret: bool,
    /// What it does, for the help text and the settings reference.
    pub help: &'static str,
}

impl Setting {
    /// A setting with one value.
    pub const fn new(
        key: &'static str,
        value_name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { key, value_name, default, list: false, secret: false, help }
    }

    /// The same setting with any number of values.
    pub const fn list(mut self) -> Self {
        self.list = true;
        self
    }

    /// The same setting, never shown.
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    fn flag(&self) -> String {
        self.key.replace('.', "-")
    }

    fn variable(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.key.replace(['.', '-'], "_").to_uppercase())
    }
}

/// A program's settings and the prefix of its environment variables.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Such as `ETCD_MONITOR_AGENT`.
    pub env_prefix: &'static str,
    /// Every setting.
    pub settings: &'static [Setting],
}

impl Schema {
    /// Adds a flag per setting, and `--config FILE`, to a command.
    pub fn add_flags(&self, command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .global(true)
            .help("Settings file, TOML or YAML by its ending");
        self.settings.iter().fold(command.arg(config), |command, setting| {
            let default = if setting.default.is_empty() {
                String::new()
            } else {
                format!(" [default: {}]", setting.default)
            };
            command.arg(
                Arg::new(setting.key)
                    .long(setting.flag())
                    .value_name(setting.value_name)
                    .action(if setting.list { ArgAction::Append } else { ArgAction::Set })
                    .global(true)
                    .help(format!("{}{default} [env: {}]", setting.help, setting.variable(self.env_prefix))),
            )
        })
    }

    /// Merges the layers. `environment` is what `std::env::vars()` yields.
    ///
    /// # Errors
    /// When the file can't be read or parsed, or a key or variable is unknown: all of it at once.
    pub fn load(
        &self,
        flags: &ArgMatches,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, Faults> {
        let path = flags.get_one::<PathBuf>("config").map(PathBuf::as_path);
        let mut layers = Layers { schema: self, values: BTreeMap::new(), faults: Vec::new() };
        layers.add_defaults();
        layers.add_file(path);
        layers.add_environment(environment);
        layers.add_flags(flags);
        if !layers.faults.is_empty() {
            return Err(Faults(layers.faults));
        }
        Ok(Settings { schema: *self, values: layers.values, faults: Vec::new() })
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// The settings file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(out, "default"),
            Self::File(path) => write!(out, "file {}", path.display()),
            Self::Environment(name) => write!(out, "environment variable {name}"),
            Self::Flag(flag) => write!(out, "flag --{flag}"),
        }
    }
}

/// All that is wrong with the settings, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(out, "settings: {one}"),
            many => {
                write!(out, "settings: {} faults", many.len())?;
                many.iter().try_for_each(|fault| write!(out, "\n  - {fault}"))
            }
        }
    }
}

impl std::error::Error for Faults {}

#[derive(Debug, Clone)]
struct Value {
    texts: Vec<String>,
    source: Source,
}

struct Layers<'a> {
    schema: &'a Schema,
    values: BTreeMap<&'static str, Value>,
    faults: Vec<String>,
}

impl Layers<'_> {
    fn set(&mut self, setting: &Setting, texts: Vec<String>, source: Source) {
        self.values.insert(setting.key, Value { texts, source });
    }

    fn add_defaults(&mut self) {
        for setting in self.schema.settings {
            self.set(setting, value::split(setting, setting.default), Source::Default);
        }
    }

    fn add_file(&mut self, path: Option<&Path>) {
        let Some(path) = path else { return };
        let entries = match file::read(path) {
            Ok(entries) => entries,
            Err(error) => return self.faults.push(format!("file {}: {error}", path.display())),
        };
        for (key, texts) in entries {
            let found = self.schema.settings.iter().find(|setting| setting.key == key);
            match found {
                Some(setting) if setting.list || texts.len() == 1 => {
                    self.set(setting, texts, Source::File(path.to_owned()));
                }
                Some(_) => self
                    .faults
                    .push(format!("{key}: one value expected, a list found (from file {})", path.display())),
                None => self.faults.push(format!(
                    "{key}: unknown key (in file {}){}",
                    path.display(),
                    value::nearest(&key, self.schema.settings)
                )),
            }
        }
    }

    fn add_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let prefix = format!("{}_", self.schema.env_prefix);
        for (name, text) in environment {
            if !name.starts_with(&prefix) || value::injected_by_kubernetes(&name) {
                continue;
            }
            let found = self.schema.settings.iter().find(|s| s.variable(self.schema.env_prefix) == name);
            match found {
                Some(setting) => self.set(setting, value::split(setting, &text), Source::Environment(name)),
                None => self.faults.push(format!("{name}: unknown environment variable")),
            }
        }
    }

    fn add_flags(&mut self, flags: &ArgMatches) {
        for setting in self.schema.settings {
            if let Ok(Some(texts)) = flags.try_get_many::<String>(setting.key) {
                self.set(setting, texts.cloned().collect(), Source::Flag(setting.flag()));
            }
        }
    }
}

/// The merged settings, still in text form. Read each with its type, then call [`Settings::finish`].
#[derive(Debug)]
pub struct Settings {
    schema: Schema,
    values: BTreeMap<&'static str, Value>,
    faults: Vec<String>,
}

impl Settings {
    /// The value of a setting. A value that does not parse is noted as a fault, and the default stands in until
    /// [`Settings::finish`] refuses the whole.
    ///
    /// # Panics
    /// When the program's own table lacks the key or has a default that does not parse.
    pub fn read<T: ParseSetting>(&mut self, key: &'static str) -> T {
        let default = self.setting(key).default;
        self.optional(key).unwrap_or_else(|| {
            T::parse(default).unwrap_or_else(|expected| {
                panic!("the default {default:?} of {key} is not {expected}: a bug in the table of settings")
            })
        })
    }

    /// The value of a setting that may be left empty.
    ///
    /// # Panics
    /// When the program's own table lacks the key.
    pub fn optional<T: ParseSetting>(&mut self, key: &'static str) -> Option<T> {
        self.list(key).into_iter().next()
    }

    /// All values of a setting.
    ///
    /// # Panics
    /// When the program's own table lacks the key.
    pub fn list<T: ParseSetting>(&mut self, key: &'static str) -> Vec<T> {
        let secret = self.setting(key).secret;
        let Some(value) = self.values.get(key) else { return Vec::new() };
        let mut parsed = Vec::new();
        for text in value.texts.iter().filter(|text| !text.is_empty()) {
            match T::parse(text) {
                Ok(good) => parsed.push(good),
                Err(expected) => {
                    let shown = if secret { "***" } else { text };
                    self.faults.push(format!("{key}: {shown:?} is not {expected} (from {})", value.source));
                }
            }
        }
        parsed
    }

    /// Notes a fault that only the program can see, such as two settings that exclude each other.
    pub fn fault(&mut self, key: &'static str, what: impl fmt::Display) {
        let source = self.source(key);
        self.faults.push(format!("{key}: {what} (from {source})"));
    }

    /// Where the value of a setting came from.
    pub fn source(&self, key: &str) -> Source {
        self.values.get(key).map_or(Source::Default, |value| value.source.clone())
    }

    /// Key, value and source of every setting, secrets masked: for `check-config` and the log at start.
    pub fn effective(&self) -> Vec<(String, String, Source)> {
        self.schema
            .settings
            .iter()
            .filter_map(|setting| {
                let value = self.values.get(setting.key)?;
                let text = value.texts.join(",");
                let shown = if setting.secret && !text.is_empty() { "***".to_owned() } else { text };
                Some((setting.key.to_owned(), shown, value.source.clone()))
            })
            .collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn finish(self) -> Result<(), Faults> {
        if self.faults.is_empty() { Ok(()) } else { Err(Faults(self.faults)) }
    }

    fn setting(&self, key: &str) -> &'static Setting {
        self.schema
            .settings
            .iter()
            .find(|setting| setting.key == key)
            .unwrap_or_else(|| panic!("no setting {key} in the table: a bug in the program"))
    }
}

#[cfg(test)]
mod tests;
