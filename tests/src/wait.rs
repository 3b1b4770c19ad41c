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

/// Looks until `probe` gives at least `enough`, for as long as what it gives grows at least once in `patience`: a backlog takes
/// the time that it takes.
///
/// # Errors
/// When it stops growing too early.
pub async fn growth(
    what: &str,
    enough: u64,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> Result<u64>,
) -> Result<()> {
    let mut reached = 0;
    let what = format!("{what} to grow");
    loop {
        let grown = until(&what, patience, async || {
            let value = probe().await?;
            if value <= reached && value < enough {
                bail!("{value} of {enough}");
            }
            Ok(Some(value))
        });
        reached = grown.await?;
        if reached >= enough {
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_grows_is_waited_for_and_what_stands_still_is_not() {
        let mut value = 0;
        let slow = growth("it", 5, Duration::from_secs(60), async || {
            value += 1;
            Ok(value / 2)
        });
        slow.await.expect("it grows in time");
        let stuck = growth("it", 50, Duration::from_millis(200), async || Ok(49));
        let error = stuck.await.expect_err("it stands still").to_string();
        assert!(error.contains("49 of 50"), "{error}");
    }
}
