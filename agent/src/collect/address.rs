//! Where a local member answers, and with which certificates it is asked.
//!
//! Only addresses that the process itself listens on are used, so no other member is ever asked. Certificates come
//! from the settings, else from etcd's own flags: its server certificate or its peer certificate often serves as a
//! client's as well (kubeadm's do).

use etcdmon_etcd::{Access, Endpoint, EndpointError, Names, TlsFiles};

use crate::discover::EtcdProcess;

/// Where a member's metrics are: the metrics URLs, else the client URLs.
///
/// # Errors
/// When no URL can be used.
pub fn of_metrics(process: &EtcdProcess) -> Result<Endpoint, EndpointError> {
    let own = best(process, &process.listen_metrics_urls, &[]);
    own.map_or_else(|| of_client(process), Ok)
}

/// Where a member serves clients.
///
/// # Errors
/// When no URL can be used.
pub fn of_client(process: &EtcdProcess) -> Result<Endpoint, EndpointError> {
    best(process, &process.listen_client_urls, &process.advertise_client_urls)
        .ok_or_else(|| EndpointError::NoUrl(process.listen_client_urls.clone()))
}

/// Loopback first, since it needs no network; in another network namespace only what is advertised can be reached.
fn best(process: &EtcdProcess, listen: &[String], advertise: &[String]) -> Option<Endpoint> {
    let usable =
        |urls: &[String]| urls.iter().filter_map(|url| Endpoint::parse_listened(url)).collect::<Vec<_>>();
    let mut candidates = if process.shares_network { usable(listen) } else { Vec::new() };
    if candidates.is_empty() {
        candidates = usable(advertise);
    }
    if candidates.is_empty() {
        candidates = usable(listen);
    }
    let local = candidates.iter().position(|one| one.host == "127.0.0.1" || one.host == "localhost");
    (!candidates.is_empty()).then(|| candidates.swap_remove(local.unwrap_or(0)))
}

/// How a local member is talked to. No name is asked of its certificate: the address is its own.
pub fn access(process: &EtcdProcess, configured: &TlsFiles) -> Access {
    Access { identities: identities(process, configured), names: Names::Any }
}

/// Certificates to try in turn: those of the settings, else etcd's own.
fn identities(process: &EtcdProcess, configured: &TlsFiles) -> Vec<TlsFiles> {
    let ca = configured.ca.clone().or_else(|| process.client_tls.ca.clone());
    let with_ca = |files: &TlsFiles| TlsFiles { ca: ca.clone(), ..files.clone() };
    if configured.cert.is_some() {
        return vec![with_ca(configured)];
    }
    let mut found = Vec::new();
    for files in [&process.client_tls, &process.peer_tls] {
        if files.cert.is_some() && files.key.is_some() {
            found.push(with_ca(files));
        }
    }
    if found.is_empty() {
        found.push(TlsFiles { ca, ..TlsFiles::default() });
    }
    found
}

#[cfg(test)]
mod tests;
