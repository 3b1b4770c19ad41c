//! Tracing to standard error, and errors with their causes.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Puts another filter in place of the present one.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

static REPLACE: OnceLock<Replace> = OnceLock::new();

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    Text,
    /// One JSON object a line, for log shippers.
    Json,
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("either text or json"),
        }
    }
}

/// Starts logging to standard error. A second call changes nothing. `filter` is in the syntax of
/// tracing-subscriber's `EnvFilter`, such as `info` or `info,etcdmon_agent::send=debug`.
///
/// # Errors
/// When the filter does not parse.
pub fn init(format: Format, filter: &str) -> Result<(), ParseError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::builder().parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        Format::Text => {
            let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            registry.with(lines.with_ansi(colour && std::io::stderr().is_terminal())).try_init()
        }
    };
    // Failing means that logging has already begun, which is what the caller wants.
    if started.is_ok() {
        let _first = REPLACE.set(Box::new(move |filter| handle.reload(filter)));
    }
    Ok(())
}

/// Changes the filter of a log that runs. Without one nothing happens.
///
/// # Errors
/// When the filter does not parse; the old one stays.
pub fn set_filter(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    if let Some(replace) = REPLACE.get() {
        // It fails only when the log has ended.
        let _ended = replace(filter);
    }
    Ok(())
}

/// Shows an error with its whole chain of causes, separated by colons.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(out, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open spool")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_names_every_cause_once() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(ErrorChain(&error).to_string(), "open spool: disk on fire");
    }

    #[test]
    fn a_bad_filter_is_an_error_and_not_a_panic() {
        assert!(init(Format::Text, "info,==").is_err());
    }
}
