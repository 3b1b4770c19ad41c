//! Values of settings in their text form.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Setting;

/// A type that a setting can have.
pub trait ParseSetting: Sized {
    /// The value, or words for what is expected: they follow "is not".
    ///
    /// # Errors
    /// When the text is no such value.
    fn parse(text: &str) -> Result<Self, &'static str>;
}

/// A length of time, written `500ms`, `2s`, `5m`, `1h`, `7d`, or as a bare number of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub Duration);

/// A size, written `64MiB`, `1GiB`, `10MB`, or as a bare number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ParseSetting for String {
    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(text.to_owned())
    }
}

impl ParseSetting for PathBuf {
    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(Self::from(text))
    }
}

impl ParseSetting for bool {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("true or false"),
        }
    }
}

impl ParseSetting for u64 {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse().map_err(|_| "a whole number")
    }
}

impl ParseSetting for SocketAddr {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse().map_err(|_| "an IP address with a port, such as 127.0.0.1:8460")
    }
}

impl ParseSetting for crate::logging::Format {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl ParseSetting for Millis {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "a length of time, such as 500ms, 2s, 5m or 7d";
        let (number, unit) = split_unit(text);
        let milliseconds_per_unit: u64 = match unit {
            "" | "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED),
        };
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        number.checked_mul(milliseconds_per_unit).map(|ms| Self(Duration::from_millis(ms))).ok_or(EXPECTED)
    }
}

impl ParseSetting for ByteSize {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "a size, such as 64MiB, 1GiB or a number of bytes";
        let (number, unit) = split_unit(text);
        let bytes_per_unit: u64 = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(EXPECTED),
        };
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        number.checked_mul(bytes_per_unit).map(Self).ok_or(EXPECTED)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// The values in a text: one, or a comma-separated list.
pub(super) fn split(setting: &Setting, text: &str) -> Vec<String> {
    if !setting.list {
        return vec![text.to_owned()];
    }
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Kubernetes sets variables such as `<SERVICE>_SERVICE_HOST` and `<SERVICE>_PORT_8460_TCP` for every service of the
/// namespace; one named like us must not be taken for settings.
pub(super) fn injected_by_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_TCP")
        || name.contains("_UDP")
}

/// A hint at the key that was probably meant: the one with the same last word.
pub(super) fn nearest(key: &str, settings: &[Setting]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    settings
        .iter()
        .find(|setting| last(setting.key) == last(key))
        .map_or(String::new(), |setting| format!("; did you mean {}?", setting.key))
}
