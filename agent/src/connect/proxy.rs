//! Proxies on the way to the aggregator: a tunnel by HTTP CONNECT, with basic authentication where its URL has a name and
//! a password.

use etcdmon_service::secret::Secret;
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service as _;

use super::{CONNECT_TIMEOUT, ConnectError};

/// Which proxy is for which address. The debug form shows no password.
#[derive(Clone, Default)]
pub struct Proxies {
    matcher: Option<std::sync::Arc<Matcher>>,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Proxies").field("any", &self.matcher.is_some()).finish()
    }
}

impl Proxies {
    /// The proxy of the settings if there is one, else those of `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub fn new(configured: Option<&Secret>, environment: &Environment) -> Self {
        let builder = Matcher::builder();
        let matcher = match (configured, &environment.proxy) {
            (Some(url), _) => builder.all(url.reveal().clone()).build(),
            (None, Some(url)) => {
                let builder = builder.https(url.reveal().clone());
                builder.no(environment.exceptions.clone().unwrap_or_default()).build()
            }
            (None, None) => return Self::default(),
        };
        Self { matcher: Some(std::sync::Arc::new(matcher)) }
    }

    /// A stream of bytes to the address, through the proxy that is for it.
    pub async fn connect(&self, to: &Uri) -> Result<TokioIo<TcpStream>, ConnectError> {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let intercepted = self.matcher.as_ref().and_then(|matcher| matcher.intercept(to));
        let Some(proxy) = intercepted else {
            return direct.call(to.clone()).await.map_err(|error| ConnectError::Network(Box::new(error)));
        };
        // Without name and password: they travel as a header, and must not show in an error.
        let address = proxy.uri().authority().map(|authority| match authority.port_u16() {
            Some(port) => format!("{}:{port}", authority.host()),
            None => authority.host().to_owned(),
        });
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        tunnel.call(to.clone()).await.map_err(|error| ConnectError::Proxy {
            proxy: address.unwrap_or_default(),
            source: Box::new(error),
        })
    }
}

/// What the environment says of proxies.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    proxy: Option<Secret>,
    exceptions: Option<String>,
}

impl Environment {
    /// From variables, small letters before capital ones as curl has it.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first =
            |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|text| !text.is_empty()));
        Self {
            proxy: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]).map(Secret::new),
            exceptions: first(&["no_proxy", "NO_PROXY"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(configured: Option<&str>, environment: &[(&str, &str)]) -> Proxies {
        let read = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        };
        Proxies::new(configured.map(Secret::new).as_ref(), &Environment::read(read))
    }

    fn chosen(proxies: &Proxies, to: &str) -> Option<String> {
        let to: Uri = to.parse().expect("a URL");
        Some(proxies.matcher.as_ref()?.intercept(&to)?.uri().to_string())
    }

    #[test]
    fn the_environment_s_proxy_is_for_https_and_has_exceptions() {
        let proxies = proxies(
            None,
            &[("HTTPS_PROXY", "http://proxy.invalid:3128"), ("NO_PROXY", "10.0.0.0/8,.inside.invalid")],
        );
        assert_eq!(
            chosen(&proxies, "https://monitor.invalid:8461").as_deref(),
            Some("http://proxy.invalid:3128/")
        );
        for direct in [
            "https://10.1.2.3:8461",
            "https://a.inside.invalid",
            "http://127.0.0.1:8461",
            "http://monitor.invalid",
        ] {
            assert_eq!(chosen(&proxies, direct), None, "{direct}");
        }
    }

    #[test]
    fn the_settings_proxy_is_for_everything_and_shows_no_password() {
        let proxies = proxies(
            Some("http://user:hidden-word@proxy.invalid:3128"),
            &[("HTTPS_PROXY", "http://other.invalid:1"), ("NO_PROXY", "*")],
        );
        assert!(chosen(&proxies, "http://127.0.0.1:8461").expect("a proxy").contains("proxy.invalid:3128"));
        assert!(!format!("{proxies:?}").contains("hidden-word"));
    }
}
