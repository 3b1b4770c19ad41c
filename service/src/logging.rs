//! Tracing to standard error, and errors with their causes.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
pub fn init(format: Format, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse(filter)?)
        .with_writer(std::io::stderr);
    // Failing means that logging has already begun, which is what the caller wants.
    let _already_running = match format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Text => {
            let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            builder.with_ansi(colour && std::io::stderr().is_terminal()).try_init()
        }
    };
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
