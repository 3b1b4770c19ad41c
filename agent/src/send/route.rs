//! Where a stream goes: the address in the settings, or for a while another one that an aggregator named. Pure.

use std::time::Duration;

use hyper::Uri;

/// Redirects in a row that are followed.
const MOST_HOPS: u32 = 3;

/// A stream that stood so long ends a row of redirects.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Shortest and longest time that a target is preferred.
const TIMES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// Longest address.
const MAX_URL_BYTES: usize = 512;

/// Why a redirect is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// Not an address.
    #[error("is not a URL with a host and nothing after it")]
    NoUrl,
    /// Another scheme: a connection over TLS stays one.
    #[error("has another scheme than the address in the settings")]
    Scheme,
    /// A circle, or a row that is too long.
    #[error("is one redirect too many in a row")]
    Hops,
    /// It is where the stream is already.
    #[error("is where the stream stands")]
    Same,
}

#[derive(Debug, Clone)]
struct Target {
    url: String,
    until_ns: u64,
}

/// See the module. Times are of the monotonic clock.
#[derive(Debug, Clone)]
pub struct Route {
    configured: String,
    target: Option<Target>,
    hops: u32,
}

impl Route {
    /// To the address in the settings.
    pub const fn new(configured: String) -> Self {
        Self { configured, target: None, hops: 0 }
    }

    /// Where the next attempt goes.
    pub fn url(&mut self, now_ns: u64) -> &str {
        if self.target.as_ref().is_some_and(|target| target.until_ns <= now_ns) {
            self.target = None;
        }
        self.target.as_ref().map_or(&self.configured, |target| &target.url)
    }

    /// Takes a redirect.
    ///
    /// # Errors
    /// When it is not to be followed; the stream then stays where it is.
    pub fn redirect(&mut self, url: &str, for_seconds: u32, now_ns: u64) -> Result<(), RedirectError> {
        let parsed: Uri = url.parse().map_err(|_| RedirectError::NoUrl)?;
        let is_plain = parsed.host().is_some_and(|host| !host.is_empty())
            && parsed.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && parsed.path_and_query().is_none_or(|rest| rest == "/");
        if url.len() > MAX_URL_BYTES || !is_plain {
            return Err(RedirectError::NoUrl);
        }
        let configured: Option<Uri> = self.configured.parse().ok();
        if parsed.scheme() != configured.as_ref().and_then(Uri::scheme) {
            return Err(RedirectError::Scheme);
        }
        if self.url(now_ns).trim_end_matches('/') == url.trim_end_matches('/') {
            return Err(RedirectError::Same);
        }
        if self.hops >= MOST_HOPS {
            return Err(RedirectError::Hops);
        }
        self.hops += 1;
        let time = Duration::from_secs(u64::from(for_seconds)).clamp(TIMES.0, TIMES.1);
        let until_ns = now_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.target = Some(Target { url: url.to_owned(), until_ns });
        Ok(())
    }

    /// A stream or an attempt ended otherwise than by a redirect, after having stood for `stood`. A target that is gone
    /// sends the agent back to the address in the settings.
    pub fn ended(&mut self, stood: Duration) {
        if stood >= SETTLED_AFTER {
            self.hops = 0;
        }
        if self.target.take().is_none() && stood.is_zero() {
            // The address in the settings does not answer either: a row of redirects ends here.
            self.hops = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn route() -> Route {
        Route::new("http://127.0.0.1:8461".to_owned())
    }

    #[test]
    fn a_target_is_preferred_for_its_time_and_left_when_it_fails() {
        let mut route = route();
        assert_eq!(route.redirect("http://127.0.0.2:8461", 30, 0), Ok(()));
        assert_eq!(route.url(29 * SECOND), "http://127.0.0.2:8461");
        assert_eq!(route.url(30 * SECOND), "http://127.0.0.1:8461");
        assert_eq!(route.redirect("http://127.0.0.2:8461/", 30, 31 * SECOND), Ok(()));
        route.ended(Duration::ZERO);
        assert_eq!(route.url(31 * SECOND), "http://127.0.0.1:8461");
    }

    #[test]
    fn only_plain_addresses_of_the_same_scheme_are_followed() {
        let mut route = route();
        for (url, error) in [
            ("https://127.0.0.2:1", RedirectError::Scheme),
            ("unix:/x", RedirectError::NoUrl),
            ("", RedirectError::NoUrl),
            ("http://a@127.0.0.2:1", RedirectError::NoUrl),
            ("http://127.0.0.2:1/path", RedirectError::NoUrl),
            ("http://127.0.0.1:8461", RedirectError::Same),
        ] {
            assert_eq!(route.redirect(url, 30, 0), Err(error), "{url}");
        }
        assert_eq!(route.redirect(&format!("http://{}", "a".repeat(600)), 30, 0), Err(RedirectError::NoUrl));
        assert_eq!(route.url(0), "http://127.0.0.1:8461");
        let mut secure = Route::new("https://a:1".to_owned());
        assert_eq!(secure.redirect("http://b:1", 30, 0), Err(RedirectError::Scheme), "TLS is never left");
    }

    #[test]
    fn a_circle_ends_after_a_few_hops_until_a_stream_has_settled() {
        let mut route = route();
        let targets = ["http://b:1", "http://c:1", "http://127.0.0.1:8461", "http://b:1"];
        let outcomes = targets.map(|url| route.redirect(url, 3_600, 0));
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(()), Err(RedirectError::Hops)]);
        route.ended(Duration::from_secs(3));
        assert_eq!(route.redirect("http://b:1", 30, 0), Err(RedirectError::Hops));
        route.ended(Duration::from_secs(60));
        assert_eq!(route.redirect("http://b:1", 30, 0), Ok(()));
    }
}
