//! The agent when things are not as they should be: a clear word, no panic, the rest goes on. S1, S10, S11, S13.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::agent::Agent;
use crate::support::aggregator::Aggregator;
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

/// Group and user `nobody`.
const NOBODY: u32 = 65_534;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_etcd-monitor-agent"))
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn faulty_settings_are_told_all_at_once_and_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, "[probe]\nsample-every = \"many\"\nunknown = 1\n").unwrap();
    let output = run(&["check-config", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("probe.unknown: unknown key"), "{}", text(&output.stderr));
    let output = run(&["--collect-interval=soon"], &[("ETCD_MONITOR_AGENT_LISTEN_ADMIN", "0.0.0.0:80")]);
    assert_eq!(output.status.code(), Some(78));
    let told = text(&output.stderr);
    assert!(
        told.contains("2 faults") && told.contains("collect.interval") && told.contains("loopback"),
        "{told}"
    );
}

#[test]
fn check_config_prints_what_is_in_force() {
    let output =
        run(&["check-config", "--probe-sample-every", "7"], &[("ETCD_MONITOR_AGENT_LOG_FORMAT", "json")]);
    assert!(output.status.success());
    let told = text(&output.stdout);
    assert!(told.contains("probe.sample-every = 7") && told.contains("log.format = json"), "{told}");
    assert!(text(&run(&["--help"], &[]).stdout).contains("--spool-max-bytes"));
    assert!(text(&run(&["--version"], &[]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_second_agent_on_the_same_state_is_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:1".parse().unwrap();
    let _first = Agent::start(directory.path(), nobody, &[]);
    let state = directory.path().join("agent");
    let output = run(&["--state-dir", state.to_str().unwrap(), "--listen-admin", "127.0.0.1:0"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another agent uses"), "{}", text(&output.stderr));
}

#[test]
fn an_admin_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let output = run(&["--state-dir", directory.path().to_str().unwrap(), "--listen-admin", &address], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("listen on {address}")), "{}", text(&output.stderr));
}

#[test]
fn without_root_the_kernel_probes_are_degraded_and_everything_else_goes_on() {
    if !is_root("without_root_the_kernel_probes_are_degraded_and_everything_else_goes_on") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    // The binary as well has to be where nobody may read.
    let home =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = home.path().join("agent");
    std::fs::copy(env!("CARGO_BIN_EXE_etcd-monitor-agent"), &program).unwrap();
    let state = home.path().join("state");
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut child = Command::new(&program)
        .arg("--state-dir")
        .arg(&state)
        .args(["--listen-admin", "127.0.0.1:0"])
        .arg(format!("--aggregator-url=http://{}", server.address))
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = etcd.pid();
    let found = wait_for("etcd is live without root", LIMIT, || {
        let live = server.aggregator.live()?;
        let member = live.members.iter().find(|member| {
            member.member.as_ref().and_then(|member| member.process.as_ref()).is_some_and(|p| p.pid == pid)
        })?;
        member.scrape_ok.then(|| (live.degraded.clone(), member.clone()))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let degraded = found.0.iter().find(|degraded| degraded.capability == "ebpf").expect("told");
    assert!(degraded.reason.contains("CAP_BPF"), "{degraded:?}");
    assert!(degraded.remedy.contains("root"), "{degraded:?}");
    assert!(found.1.is_leader && found.1.raft_index > 0);
}

#[test]
fn a_state_directory_that_cannot_be_used_costs_the_spool_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("agent"), "a file where a directory should be").unwrap();
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    let degraded = wait_for("it says so", LIMIT, || {
        let live = server.aggregator.live()?;
        live.degraded.iter().find(|degraded| degraded.capability == "state").cloned()
    });
    assert!(degraded.remedy.contains("state.dir"), "{degraded:?}");
    assert!(
        agent.page("/readyz").starts_with("HTTP/1.0 200")
            || agent.page("/readyz").starts_with("HTTP/1.1 200")
    );
}

#[test]
fn a_damaged_spool_is_reported_and_the_rest_is_sent() {
    if !is_root("a_damaged_spool_is_reported_and_the_rest_is_sent") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(_etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let agent = Agent::start(directory.path(), "127.0.0.1:1".parse().unwrap(), &[]);
    std::thread::sleep(Duration::from_secs(7));
    assert!(agent.stop().success());
    let spool = directory.path().join("agent/spool");
    let segment = std::fs::read_dir(&spool)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "slot"))
        .expect("batches were spooled at the end");
    let mut bytes = std::fs::read(&segment).unwrap();
    // The header of the first record, behind head and table.
    bytes[8192 + 16..8192 + 60].fill(0xee);
    std::fs::write(&segment, bytes).unwrap();
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    wait_for("the event arrives", LIMIT, || {
        server.aggregator.events().contains(&"spool.corrupt".to_owned()).then_some(())
    });
    wait_for("what is whole arrives", LIMIT, || {
        let seen = server.aggregator.seen.lock().unwrap();
        let epochs: std::collections::BTreeSet<_> =
            seen.batches.keys().map(|(epoch, _)| epoch.clone()).collect();
        (epochs.len() == 2).then_some(())
    });
    assert!(agent.metric("etcdmon_agent_spool_corrupt_bytes_total") > 0.0);
}

#[test]
fn garbage_on_the_admin_port_and_from_the_aggregator_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    // Something that answers, but is no aggregator.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(b"\x00\x01garbage, not HTTP/2\r\n\r\n");
        }
    });
    let agent = Agent::start(directory.path(), address, &[]);
    for garbage in [
        b"\x00\xff\xfe\r\n\r\n".as_slice(),
        b"GET",
        b"PUT /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
        &[b'A'; 100_000],
    ] {
        let mut stream = TcpStream::connect(agent.admin).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(agent.page("/nothing").contains("404"));
    assert!(agent.page("/readyz").contains("200 OK"));
    wait_for("it says why it does not send", LIMIT, || agent.log().contains("no batch stream").then_some(()));
    assert!(!agent.log().contains("panicked"));
    assert!(agent.stop().success());
}

#[test]
fn probes_are_switched_only_where_that_is_allowed_and_the_gap_is_blind() {
    if !is_root("probes_are_switched_only_where_that_is_allowed_and_the_gap_is_blind") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    assert!(put(&agent, "/probes?enabled=false").contains("403"));
    assert!(agent.stop().success());
    let agent = Agent::start(directory.path(), server.address, &["--listen-admin-control=true"]);
    wait_for("agent watches etcd", LIMIT, || {
        (agent.log().matches("watching syncs").count() == 2).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    let before = (etcd.wal_syncs(), server.aggregator.wal_syncs());
    assert!(put(&agent, "/probes?enabled=perhaps").contains("400"));
    assert!(put(&agent, "/probes?enabled=false").contains("200"));
    etcd.put(10);
    let missed = etcd.wal_syncs() - before.0;
    assert!(put(&agent, "/probes?enabled=true").contains("200"));
    etcd.put(10);
    let seen = etcd.wal_syncs() - before.0 - missed;
    wait_for("what came after arrives", LIMIT, || {
        (server.aggregator.wal_syncs() - before.1 >= seen).then_some(())
    });
    let blind = wait_for("the gap is stated", LIMIT, || {
        server.aggregator.ledger().into_iter().find(|row| row.2 == "probes_off")
    });
    assert_eq!(blind.3, missed);
    assert_eq!(server.aggregator.wal_syncs() - before.1, seen);
}

fn put(agent: &Agent, path: &str) -> String {
    let mut stream = TcpStream::connect(agent.admin).unwrap();
    write!(stream, "PUT {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_aggregator_with_mutual_tls_is_trusted_by_its_authority_alone() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    use tonic::transport::{Certificate, Identity, ServerTlsConfig};
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path();
    let authority = Authority::new(pki, "ca.crt");
    authority.sign(pki, "aggregator", &[ServerAuth]);
    authority.sign(pki, "agent", &[ClientAuth]);
    Authority::new(pki, "other-ca.crt");
    let read = |name: &str| std::fs::read(pki.join(name)).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("aggregator.crt"), read("aggregator.key")))
        .client_ca_root(Certificate::from_pem(read("ca.crt")));
    let server = Aggregator::start_with_tls(tls);
    let url = format!("https://localhost:{}", server.address.port());
    let file = |name: &str| pki.join(name).display().to_string();
    let start = |ca: &str| {
        let flags = [
            format!("--aggregator-ca-file={}", file(ca)),
            format!("--aggregator-cert-file={}", file("agent.crt")),
            format!("--aggregator-key-file={}", file("agent.key")),
        ];
        Agent::start_for(pki, &url, &flags.each_ref().map(String::as_str))
    };
    let agent = start("other-ca.crt");
    wait_for("a stranger is not trusted", LIMIT, || agent.log().contains("no batch stream").then_some(()));
    assert!(server.aggregator.live().is_none());
    assert!(agent.stop().success());
    let _agent = start("ca.crt");
    wait_for("live summaries and batches arrive", LIMIT, || {
        let batches = server.aggregator.seen.lock().unwrap().batches.len();
        server.aggregator.live().filter(|_| batches > 0).map(drop)
    });
}

/// An authority, and what it signed: `NAME.crt` and `NAME.key` in `directory`.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(directory: &Path, file: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.join(file), certificate.pem()).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    fn sign(&self, directory: &Path, name: &str, usages: &[rcgen::ExtendedKeyUsagePurpose]) {
        // etcd's certificates often name only what is advertised: not the loopback address that is asked here.
        let host = if name == "server" { "not-this-host.example" } else { "localhost" };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        parameters.extended_key_usages = usages.to_vec();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        let _ = &self.certificate;
    }
}

#[test]
fn an_etcd_that_asks_for_client_certificates_is_read_with_its_own() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path();
    let authority = Authority::new(pki, "ca.crt");
    authority.sign(pki, "server", &[ServerAuth, ClientAuth]);
    let Some(_etcd) = start_with_tls(pki) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(pki, server.address, &[]);
    wait_for("it is scraped over TLS", LIMIT, || {
        let live = server.aggregator.live()?;
        let member = live.members.first()?;
        (member.scrape_ok && member.is_leader).then_some(())
    });
    drop(agent);
    // A stranger's certificate: refused, and said so.
    let other = tempfile::tempdir().unwrap();
    Authority::new(other.path(), "ca.crt").sign(other.path(), "stranger", &[ClientAuth]);
    let file = |ending: &str| other.path().join(format!("stranger.{ending}")).display().to_string();
    let flags = [format!("--etcd-cert-file={}", file("crt")), format!("--etcd-key-file={}", file("key"))];
    let _agent = Agent::start(pki, server.address, &[&flags[0], &flags[1]]);
    let error = wait_for("it says why it is not scraped", LIMIT, || {
        let live = server.aggregator.live()?;
        let member = live.members.first().filter(|_| live.number > 2)?;
        (!member.scrape_ok && member.scrape_error != "not asked yet; not asked yet")
            .then(|| member.scrape_error.clone())
    });
    assert!(!error.is_empty());
    eprintln!("a stranger is told: {error}");
}

fn start_with_tls(pki: &Path) -> Option<Etcd> {
    let file = |name: &str| pki.join(name).display().to_string();
    let flags = [
        "--listen-client-urls=https://127.0.0.1:{client}".to_owned(),
        "--advertise-client-urls=https://127.0.0.1:{client}".to_owned(),
        format!("--cert-file={}", file("server.crt")),
        format!("--key-file={}", file("server.key")),
        format!("--trusted-ca-file={}", file("ca.crt")),
        "--client-cert-auth".to_owned(),
    ];
    Etcd::start_with("3.6.16", pki, &flags.each_ref().map(String::as_str))
}

#[test]
fn a_stopped_etcd_is_told_as_such_and_requests_do_not_pile_up() {
    if !is_root("a_stopped_etcd_is_told_as_such_and_requests_do_not_pile_up") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    let is_ok = |wanted: bool| {
        let live = server.aggregator.live()?;
        live.members
            .first()
            .is_some_and(|member| member.scrape_ok == wanted && member.running)
            .then_some(live.number)
    };
    wait_for("it is scraped", LIMIT, || is_ok(true));
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", agent.child.id())).unwrap().count();
    let before = descriptors();
    let signal = |signal| {
        // SAFETY: a process of ours that has not been waited for.
        assert_eq!(unsafe { libc::kill(etcd.pid() as i32, signal) }, 0);
    };
    signal(libc::SIGSTOP);
    let noticed = wait_for("it is told", LIMIT, || is_ok(false));
    std::thread::sleep(Duration::from_secs(8));
    let after = descriptors();
    signal(libc::SIGCONT);
    let live = server.aggregator.live().unwrap();
    assert!(live.number >= noticed + 6, "the live stream went on: {} to {}", noticed, live.number);
    // A connection a request at most, not one more with every second.
    assert!(after < before + 8, "descriptors: {before}, then {after}");
    wait_for("it is scraped again", LIMIT, || is_ok(true));
}

#[test]
fn an_etcd_with_authentication_on_is_read_as_far_as_it_lets_and_says_what_is_missing() {
    let is_full = std::env::var_os("ETCD_MONITOR_FULL").is_some();
    for version in VERSIONS.into_iter().filter(|version| is_full || *version == "3.6.16") {
        let directory = tempfile::tempdir().unwrap();
        let Some(etcd) = Etcd::start(version, directory.path()) else { return };
        etcd.ctl(&["user", "add", "root:secret"]);
        etcd.ctl(&["user", "grant-role", "root", "root"]);
        etcd.ctl(&["auth", "enable"]);
        let server = Aggregator::start();
        let _agent = Agent::start(directory.path(), server.address, &[]);
        let member = wait_for("it is read", LIMIT, || {
            let live = server.aggregator.live()?;
            live.members.first().filter(|member| member.has_leader && live.number > 4).cloned()
        });
        eprintln!("{version}: {:?}", member.scrape_error);
        // Whether Status is for everybody differs between versions; their metrics are.
        let told =
            member.scrape_error.contains("authentication on") && member.scrape_error.contains("role root");
        assert!(member.scrape_ok || told, "{version}: {}", member.scrape_error);
        assert!(member.db_size_bytes > 0, "{version}");
    }
}
