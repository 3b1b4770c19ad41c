//! Waiting on conditions, never on time alone.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks again and again until `probe` gives a value, at most for `limit`. An error of the probe means "not yet"; the
/// last one is part of the message when time runs out.
///
/// # Errors
/// When the limit is reached.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("the condition did not hold");
    loop {
        match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}: {last}");
        }
        sleep(INTERVAL).await;
    }
}

/// Looks until `probe` gives the same value for as long as `calm`, at most for `limit`; returns that value.
///
/// # Errors
/// When the value never settles, or can't be read for the whole of `limit`.
pub async fn settled<T: PartialEq + Clone + std::fmt::Debug>(
    what: &str,
    calm: Duration,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let mut last: Option<(T, Instant)> = None;
    until(&format!("{what} to settle for {calm:?}"), limit, async || {
        let value = probe().await?;
        match &last {
            Some((same, since)) if *same == value => Ok((since.elapsed() >= calm).then(|| value.clone())),
            _ => {
                last = Some((value, Instant::now()));
                Ok(None)
            }
        }
    })
    .await
}
