//! What is to be watched without an agent, as it is written in settings and over the API, and the checked form of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcdmon_etcd::{Access, Endpoint, Names, TlsFiles};
use etcdmon_service::settings::{Millis, ParseSetting};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most endpoints of one cluster.
pub const MAX_ENDPOINTS: usize = 32;

/// Longest name, in bytes.
const MAX_NAME: usize = 64;

/// Longest URL or path, in bytes.
const MAX_TEXT: usize = 1_024;

/// How often `/metrics` is read unless said otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// Bounds of that interval. A sample counts as current for two minutes.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Stands for the host of a member in the URL of its metrics.
const HOST: &str = "{host}";

/// A cluster to be watched without agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Name of the cluster, for people; lower-case letters, digits, dots, dashes and underscores.
    pub name: String,
    /// Client URLs of its members; one that answers is enough, the others are found through its member list.
    pub endpoints: Vec<String>,
    /// PEM file with the authorities that signed the members' certificates; needed for https.
    #[serde(default, alias = "ca-file", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub ca_file: Option<PathBuf>,
    /// PEM file with our client certificate.
    #[serde(default, alias = "cert-file", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cert_file: Option<PathBuf>,
    /// PEM file with its key.
    #[serde(default, alias = "key-file", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key_file: Option<PathBuf>,
    /// Name that the members' certificates must have instead of the one in the URL.
    #[serde(default, alias = "server-name", skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Where metrics are when not at the client URL, such as `http://{host}:2381`; `{host}` is the member's host.
    #[serde(default, alias = "metrics-url", skip_serializing_if = "Option::is_none")]
    pub metrics_url: Option<String>,
    /// How often `/metrics` is read, such as `5s`; 1 s to 1 min. Status is asked for five times as often, at most once a
    /// second and at least every 5 s.
    #[serde(default = "default_interval")]
    pub interval: String,
}

fn default_interval() -> String {
    format!("{}s", DEFAULT_INTERVAL.as_secs())
}

/// A spec that can be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of the cluster.
    pub name: String,
    /// Endpoints as given.
    pub seeds: Vec<Endpoint>,
    /// How they are talked to.
    pub access: Access,
    /// Pattern of the metrics' URL.
    metrics_url: Option<String>,
    /// How often `/metrics` is read.
    pub interval: Duration,
}

impl Target {
    /// Where the metrics of the member at a client endpoint are.
    pub fn metrics_of(&self, client: &Endpoint) -> Endpoint {
        let bracketed =
            if client.host.contains(':') { format!("[{}]", client.host) } else { client.host.clone() };
        let own = self.metrics_url.as_ref().and_then(|url| Endpoint::parse(&url.replace(HOST, &bracketed)));
        own.unwrap_or_else(|| client.clone())
    }

    /// How often Status is asked for.
    pub fn status_interval(&self) -> Duration {
        (self.interval / 5).clamp(Duration::from_secs(1), Duration::from_secs(5))
    }
}

impl Spec {
    /// The checked form.
    ///
    /// # Errors
    /// All that is wrong, each with the field's name.
    pub fn check(&self) -> Result<Target, Vec<String>> {
        let mut faults = Vec::new();
        let plain = |letter: char| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '.' | '-' | '_')
        };
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(plain) {
            faults.push(format!(
                "name: not 1 to {MAX_NAME} lower-case letters, digits, dots, dashes and underscores"
            ));
        }
        let seeds = self.seeds(&mut faults);
        let names = self.names(&mut faults);
        self.check_files(&mut faults);
        let metrics = self.metrics_url.as_ref();
        if metrics
            .is_some_and(|url| url.len() > MAX_TEXT || Endpoint::parse(&url.replace(HOST, "h")).is_none())
        {
            faults.push(
                "metrics_url: not an http or https URL with a port, such as http://{host}:2381".to_owned(),
            );
        }
        let https = |url: &str| url.starts_with("https");
        let needs_authority = seeds.iter().any(|seed| seed.tls) || metrics.is_some_and(|url| https(url));
        if needs_authority && self.ca_file.is_none() {
            faults.push("ca_file: needed for https, to know whom to trust".to_owned());
        }
        let interval = <Millis as ParseSetting>::parse(&self.interval).map(|Millis(interval)| interval);
        let interval = interval.ok().filter(|interval| (INTERVAL.0..=INTERVAL.1).contains(interval));
        if interval.is_none() {
            faults.push("interval: not a time from 1s to 1m".to_owned());
        }
        let files =
            TlsFiles { ca: self.ca_file.clone(), cert: self.cert_file.clone(), key: self.key_file.clone() };
        let target = Target {
            name: self.name.clone(),
            seeds,
            access: Access { identities: vec![files], names },
            metrics_url: self.metrics_url.clone(),
            interval: interval.unwrap_or(DEFAULT_INTERVAL),
        };
        if faults.is_empty() { Ok(target) } else { Err(faults) }
    }

    fn seeds(&self, faults: &mut Vec<String>) -> Vec<Endpoint> {
        if self.endpoints.is_empty() || self.endpoints.len() > MAX_ENDPOINTS {
            faults.push(format!("endpoints: not 1 to {MAX_ENDPOINTS} client URLs"));
        }
        let mut seeds: Vec<Endpoint> = Vec::new();
        for (position, url) in self.endpoints.iter().take(MAX_ENDPOINTS).enumerate() {
            match Endpoint::parse(url).filter(|seed| url.len() <= MAX_TEXT && !seed.is_wildcard()) {
                Some(seed) if seeds.contains(&seed) => {
                    faults.push(format!("endpoints: number {} is given twice", position + 1));
                }
                Some(seed) => seeds.push(seed),
                None => faults.push(format!(
                    "endpoints: number {} is not an http or https URL with a port, such as https://10.0.0.1:2379",
                    position + 1
                )),
            }
        }
        seeds
    }

    fn names(&self, faults: &mut Vec<String>) -> Names {
        let Some(name) = &self.server_name else { return Names::Address };
        match name.clone().try_into() {
            Ok(name) => Names::As(name),
            Err(_invalid) => {
                faults.push("server_name: not a host name or IP address".to_owned());
                Names::Address
            }
        }
    }

    fn check_files(&self, faults: &mut Vec<String>) {
        let files =
            [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)];
        for (field, path) in files {
            let usable = |path: &Path| path.is_absolute() && path.as_os_str().len() <= MAX_TEXT;
            if path.as_ref().is_some_and(|path| !usable(path)) {
                faults.push(format!("{field}: not an absolute path"));
            }
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            faults.push("cert_file, key_file: given one without the other".to_owned());
        }
    }
}

/// In a settings file a table of its own, as a flag a JSON object.
impl ParseSetting for Spec {
    fn parse(text: &str) -> Result<Self, &'static str> {
        serde_json::from_str(text).map_err(|_| {
            "a table with name and endpoints, and if needed ca-file, cert-file, key-file, server-name, metrics-url, interval"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(text).unwrap_or_else(|error| panic!("{text} is not {error}"))
    }

    #[test]
    fn the_least_is_a_name_and_an_endpoint() {
        let target = spec(r#"{"name":"blue","endpoints":["http://10.0.0.1:2379"]}"#).check().unwrap();
        assert_eq!((target.interval, target.status_interval()), (DEFAULT_INTERVAL, Duration::from_secs(1)));
        assert_eq!(target.metrics_of(&target.seeds[0]), target.seeds[0]);
    }

    #[test]
    fn keys_are_spelled_as_in_files_or_as_in_the_api() {
        let file = spec(
            r#"{"name":"b","endpoints":["https://a:1"],"ca-file":"/ca","metrics-url":"http://{host}:2381"}"#,
        );
        let api = serde_json::to_string(&file).unwrap();
        assert!(api.contains("ca_file"), "{api}");
        assert_eq!(spec(&api), file);
        let target = file.check().unwrap();
        assert_eq!(target.metrics_of(&target.seeds[0]).to_string(), "http://a:2381");
        let six = Endpoint::parse("https://[fd00::1]:2379").unwrap();
        assert_eq!(target.metrics_of(&six).to_string(), "http://[fd00::1]:2381");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = spec(
            r#"{"name":"A b","endpoints":["https://a:1","https://a:1","nonsense","http://0.0.0.0:1"],"cert_file":"c",
                "server_name":"a b","metrics_url":"x","interval":"1ms"}"#,
        )
        .check()
        .unwrap_err();
        for expected in [
            "name:",
            "number 2 is given twice",
            "number 3",
            "number 4",
            "ca_file: needed",
            "cert_file: not an absolute",
            "one without the other",
            "server_name:",
            "metrics_url:",
            "interval:",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected} not in {faults:#?}");
        }
        assert!(spec(r#"{"name":"a","endpoints":[]}"#).check().is_err());
        assert!(Spec::parse(r#"{"name":"a","endpoints":["http://a:1"],"password":"x"}"#).is_err());
    }
}
