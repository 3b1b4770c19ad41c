use std::path::{Path, PathBuf};

use super::*;
use crate::discover::{Placement, ProcessId};

fn process(listen: &[&str], advertise: &[&str], metrics: &[&str], shares_network: bool) -> EtcdProcess {
    let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
    EtcdProcess {
        id: ProcessId { boot_id: [0; 16], pid: 1, start_ticks: 1 },
        name: "m".to_owned(),
        data_dir: PathBuf::from("/d"),
        data_dir_here: PathBuf::from("/d"),
        wal_dir_here: PathBuf::from("/d/member/wal"),
        listen_client_urls: urls(listen),
        advertise_client_urls: urls(advertise),
        listen_metrics_urls: urls(metrics),
        listen_peer_urls: Vec::new(),
        log_outputs: Vec::new(),
        peer_urls: Vec::new(),
        client_tls: TlsFiles::default(),
        peer_tls: TlsFiles::default(),
        placement: Placement::default(),
        shares_network,
        image: 0,
        is_hidden: false,
        notes: Vec::new(),
    }
}

fn client(process: &EtcdProcess) -> String {
    of_client(process).map_or_else(|error| error.to_string(), |endpoint| endpoint.to_string())
}

#[test]
fn loopback_is_preferred_and_wildcards_become_loopback() {
    let two =
        process(&["https://10.0.0.5:2379", "https://127.0.0.1:2379"], &["https://10.0.0.5:2379"], &[], true);
    assert_eq!(client(&two), "https://127.0.0.1:2379");
    assert_eq!(client(&process(&["http://0.0.0.0:2379"], &[], &[], true)), "http://127.0.0.1:2379");
    assert_eq!(client(&process(&["http://[::]:2379"], &[], &[], true)), "http://[::1]:2379");
}

#[test]
fn in_another_network_only_what_is_advertised_is_used() {
    let apart = process(&["https://127.0.0.1:2379"], &["https://10.1.2.3:2379"], &[], false);
    assert_eq!(client(&apart), "https://10.1.2.3:2379");
}

#[test]
fn metrics_urls_come_first_for_metrics_alone() {
    let kubeadm = process(&["https://127.0.0.1:2379"], &[], &["http://127.0.0.1:2381"], true);
    assert_eq!(of_metrics(&kubeadm).expect("usable").to_string(), "http://127.0.0.1:2381");
    assert_eq!(client(&kubeadm), "https://127.0.0.1:2379");
    let none = process(&["http://127.0.0.1:2379"], &[], &[], true);
    assert_eq!(of_metrics(&none).expect("usable").to_string(), "http://127.0.0.1:2379");
}

#[test]
fn urls_that_cannot_be_used_are_an_error_that_names_them() {
    let odd = process(&["unix://localhost:m1", "http://nothing", "%%%"], &[], &[], true);
    assert!(client(&odd).contains("unix://localhost:m1"), "{}", client(&odd));
}

#[test]
fn settings_beat_etcds_own_certificates_and_the_peers_come_last() {
    let files = |name: &str| TlsFiles {
        cert: Some(PathBuf::from(format!("{name}.crt"))),
        key: Some(PathBuf::from(format!("{name}.key"))),
        ca: None,
    };
    let mut etcd = process(&["https://127.0.0.1:2379"], &[], &[], true);
    assert_eq!(identities(&etcd, &TlsFiles::default()), [TlsFiles::default()]);
    etcd.client_tls = TlsFiles { ca: Some(PathBuf::from("ca.crt")), ..files("server") };
    etcd.peer_tls = TlsFiles { ca: Some(PathBuf::from("peer-ca.crt")), ..files("peer") };
    let found = identities(&etcd, &TlsFiles::default());
    let names: Vec<_> = found.iter().map(|files| files.cert.clone().expect("set")).collect();
    assert_eq!(names, [PathBuf::from("server.crt"), PathBuf::from("peer.crt")]);
    assert!(found.iter().all(|files| files.ca.as_deref() == Some(Path::new("ca.crt"))), "etcd's client side");
    let set = identities(&etcd, &files("mine"));
    assert_eq!(set.len(), 1);
    assert_eq!(set[0].cert.as_deref(), Some(Path::new("mine.crt")));
}
