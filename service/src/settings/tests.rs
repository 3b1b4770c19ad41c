use std::net::SocketAddr;
use std::time::Duration;

use super::*;

const SETTINGS: &[Setting] = &[
    Setting::new("listen.api", "ADDRESS", "127.0.0.1:8460", "Address of the API"),
    Setting::new("state.dir", "DIR", "/var/lib/x", "State"),
    Setting::new("alert.webhook", "URL", "", "Receivers").list(),
    Setting::new("batch-interval", "TIME", "2s", "Pace"),
    Setting::new("api.token", "TOKEN", "", "Token").secret(),
];
const SCHEMA: Schema = Schema { env_prefix: "TEST_APP", settings: SETTINGS };

fn load(args: &[&str], environment: &[(&str, &str)]) -> Result<Settings, Faults> {
    let command = SCHEMA.add_flags(Command::new("test"));
    let matches = command.get_matches_from([&["test"], args].concat());
    SCHEMA.load(&matches, environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

fn file(name: &str, content: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("write the file");
    let path = path.to_str().expect("a plain path").to_owned();
    (directory, path)
}

#[test]
fn every_default_parses() {
    let mut settings = load(&[], &[]).expect("defaults alone are fine");
    assert_eq!(settings.read::<SocketAddr>("listen.api").port(), 8460);
    assert_eq!(settings.read::<Millis>("batch-interval").0, Duration::from_secs(2));
    assert!(settings.list::<String>("alert.webhook").is_empty());
    assert_eq!(settings.optional::<String>("api.token"), None);
    assert_eq!(settings.finish(), Ok(()));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let (_directory, path) =
        file("a.toml", "batch-interval = '3s'\n[listen]\napi = '127.0.0.1:1'\n[state]\ndir = '/file'\n");
    let environment = [("TEST_APP_LISTEN_API", "127.0.0.1:2"), ("TEST_APP_STATE_DIR", "/env")];
    let mut settings = load(&["--config", &path, "--listen-api", "127.0.0.1:3"], &environment).expect("good");
    assert_eq!(settings.read::<SocketAddr>("listen.api").port(), 3);
    assert_eq!(settings.read::<PathBuf>("state.dir"), PathBuf::from("/env"));
    assert_eq!(settings.read::<Millis>("batch-interval").0, Duration::from_secs(3));
    assert_eq!(settings.source("listen.api"), Source::Flag("listen-api".to_owned()));
    assert_eq!(settings.source("state.dir"), Source::Environment("TEST_APP_STATE_DIR".to_owned()));
}

#[test]
fn yaml_and_toml_say_the_same() {
    let (_one, toml) = file("a.toml", "[alert]\nwebhook = ['http://a', 'http://b']\n");
    let (_two, yaml) = file("a.yaml", "alert:\n  webhook:\n    - http://a\n    - http://b\n");
    for path in [toml, yaml] {
        let mut settings = load(&["--config", &path], &[]).expect("good");
        assert_eq!(settings.list::<String>("alert.webhook"), ["http://a", "http://b"]);
    }
}

#[test]
fn all_faults_are_reported_at_once_with_their_source() {
    let environment = [("TEST_APP_BATCH_INTERVAL", "soon")];
    let mut settings = load(&["--listen-api", "nowhere"], &environment).expect("layers are fine");
    settings.read::<SocketAddr>("listen.api");
    settings.read::<Millis>("batch-interval");
    settings.fault("state.dir", "is on etcd's own disk");
    let text = settings.finish().expect_err("three faults").to_string();
    assert!(text.starts_with("settings: 3 faults"), "{text}");
    assert!(text.contains("listen.api: \"nowhere\" is not an IP address with a port"), "{text}");
    assert!(text.contains("(from flag --listen-api)"), "{text}");
    assert!(text.contains("(from environment variable TEST_APP_BATCH_INTERVAL)"), "{text}");
    assert!(text.contains("state.dir: is on etcd's own disk (from default)"), "{text}");
}

#[test]
fn unknown_keys_and_variables_are_refused_with_a_hint() {
    let (_directory, path) = file("a.toml", "api = '127.0.0.1:1'\nnonsense = 3\n");
    let faults = load(&["--config", &path], &[("TEST_APP_STAT_DIR", "x")]).expect_err("three unknown");
    assert_eq!(faults.0.len(), 3, "{faults}");
    assert!(faults.to_string().contains("did you mean listen.api?"), "{faults}");
    assert!(faults.to_string().contains("TEST_APP_STAT_DIR: unknown environment variable"), "{faults}");
}

#[test]
fn variables_that_kubernetes_injects_are_not_settings() {
    let injected = [
        ("TEST_APP_SERVICE_HOST", "10.0.0.1"),
        ("TEST_APP_PORT", "tcp://10.0.0.1:8460"),
        ("TEST_APP_PORT_8460_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(load(&[], &injected).is_ok());
}

#[test]
fn secrets_are_never_shown() {
    let mut settings = load(&["--api-token", "hunter2"], &[]).expect("good");
    let shown = format!("{:?}", settings.effective());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(settings.optional::<u64>("api.token"), None);
    let faults = settings.finish().expect_err("not a number").to_string();
    assert!(!faults.contains("hunter2") && faults.contains("***"), "{faults}");
}

#[test]
fn broken_files_are_faults_and_not_panics() {
    for (name, content, expected) in [
        ("a.toml", "[[[", "does not parse"),
        ("a.yaml", "a: [", "does not parse"),
        ("a.yaml", "- 1\n", "must be a table"),
        ("a.ini", "", "must end in"),
    ] {
        let (_directory, path) = file(name, content);
        let faults = load(&["--config", &path], &[]).expect_err(content).to_string();
        assert!(faults.contains(expected), "{name} {content:?}: {faults}");
    }
    let faults = load(&["--config", "/nonexistent.toml"], &[]).expect_err("missing").to_string();
    assert!(faults.contains("can't be read"), "{faults}");
}

#[test]
fn an_empty_file_is_fine() {
    for name in ["a.toml", "a.yaml"] {
        let (_directory, path) = file(name, "");
        assert!(load(&["--config", &path], &[]).is_ok(), "{name}");
    }
}

#[test]
fn sizes_and_times_are_read_with_their_units() {
    let millis = |text| Millis::parse(text).map(|t| t.0.as_millis());
    assert_eq!(millis("250"), Ok(250));
    assert_eq!(millis("250ms"), Ok(250));
    assert_eq!(millis("2 s"), Ok(2_000));
    assert_eq!(millis("1h"), Ok(3_600_000));
    for bad in ["", "s", "-1", "2 weeks", "99999999999999999999s", "18446744073709551615h"] {
        assert!(millis(bad).is_err(), "{bad}");
    }
    let bytes = |text| ByteSize::parse(text).map(|size| size.0);
    assert_eq!(bytes("64MiB"), Ok(64 << 20));
    assert_eq!(bytes("10MB"), Ok(10_000_000));
    assert_eq!(bytes("17"), Ok(17));
    for bad in ["", "MiB", "1 TB?", "99999999999GiB"] {
        assert!(bytes(bad).is_err(), "{bad}");
    }
}
