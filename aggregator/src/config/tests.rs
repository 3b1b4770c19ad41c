use super::*;

fn try_load(args: &[&str], environment: &[(&str, &str)]) -> Result<Config, Faults> {
    let command = SCHEMA.add_flags(clap::Command::new("test"));
    let matches = command.get_matches_from([&["test"], args].concat());
    let environment = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    load(&matches, environment).map(|(config, _)| config)
}

fn faults(args: &[&str], environment: &[(&str, &str)]) -> String {
    try_load(args, environment).expect_err("faults").to_string()
}

#[test]
fn the_defaults_alone_are_fine() {
    let config = try_load(&[], &[]).unwrap();
    assert_eq!((config.api.port(), config.ingest.port()), (8460, 8461));
    assert_eq!(config.batch_interval, Duration::from_secs(2));
    assert!(config.console && config.webhooks.is_empty() && config.token.is_none());
    assert!(matches!(config.clickhouse, ClickHouse::Embedded { memory_bytes: 2_147_483_648, .. }));
}

#[test]
fn tables_keep_rows_as_long_as_is_said_and_coarser_sums_no_shorter() {
    assert_eq!(try_load(&[], &[]).unwrap().retention, Retention::default());
    let config = try_load(&["--retention-raw", "36h", "--retention-events", "30d"], &[]).unwrap();
    assert_eq!(config.retention.raw, Duration::from_hours(36));
    assert_eq!(config.retention.events, Duration::from_hours(30 * 24));
    let text = faults(&["--retention-raw", "60d", "--retention-hour", "1h"], &[]);
    assert!(text.contains("retention.ten-seconds") && text.contains("shorter than retention.raw"), "{text}");
    assert!(text.contains("lies outside 1d to 3650d"), "{text}");
}

#[test]
fn an_open_address_needs_a_token_and_is_told_how_to_get_one() {
    let text = faults(&["--listen-api", "0.0.0.0:8460"], &[]);
    assert!(text.contains("listen.token-file") && text.contains("ETCD_MONITOR_AGGREGATOR_TOKEN"), "{text}");
    assert!(text.contains("(from flag --listen-api)"), "{text}");
    let token = [("ETCD_MONITOR_AGGREGATOR_TOKEN", "0123456789abcdef")];
    let config = try_load(&["--listen-api", "0.0.0.0:8460"], &token).unwrap();
    assert_eq!(config.token.unwrap().reveal(), "0123456789abcdef");
    assert!(try_load(&["--listen-api", "[::1]:8460"], &[]).is_ok());
}

#[test]
fn a_token_comes_from_a_file_without_its_line_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef-file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let config = try_load(&["--listen-token-file", path], &[]).unwrap();
    assert_eq!(config.token.as_ref().unwrap().reveal(), "0123456789abcdef-file");
    assert!(!format!("{config:?}").contains("0123456789"), "secrets are not shown");
    let both =
        faults(&["--listen-token-file", path], &[("ETCD_MONITOR_AGGREGATOR_TOKEN", "0123456789abcdef")]);
    assert!(both.contains("give one of them"), "{both}");
}

#[test]
fn poor_tokens_are_refused_and_not_shown() {
    for token in ["short", "0123456789 abcdef", "0123456789abcdé€"] {
        let text = faults(&[], &[("ETCD_MONITOR_AGGREGATOR_TOKEN", token)]);
        assert!(text.contains("at least 16 printable"), "{text}");
        assert!(!text.contains(token), "{text}");
    }
    let text = faults(&["--token", "0123456789abcdef"], &[]);
    assert!(text.contains("every user of the host") && !text.contains("0123456789"), "{text}");
    let text = faults(&["--listen-token-file", "/nonexistent/token"], &[]);
    assert!(text.contains("/nonexistent/token can't be read"), "{text}");
}

#[test]
fn all_faults_come_at_once_with_key_and_source() {
    let text = faults(
        &[
            "--listen-api",
            "0.0.0.0:1",
            "--listen-ingest",
            "nowhere",
            "--alert-webhook",
            "ftp://x",
            "--alert-webhook",
            "http://a/",
            "--alert-webhook",
            "http://a/",
            "--clickhouse-user",
            "u",
            "--clickhouse-memory-bytes",
            "1MiB",
            "--clickhouse-database",
            "a;drop",
        ],
        &[
            ("ETCD_MONITOR_AGGREGATOR_INGEST_BATCH_INTERVAL", "1ms"),
            ("ETCD_MONITOR_AGGREGATOR_LOG_FORMAT", "xml"),
            ("ETCD_MONITOR_AGGREGATOR_CLICKHOUSE_LIBRARY", "/nonexistent.so"),
        ],
    );
    for expected in [
        "listen.api: 0.0.0.0:1 is not loopback",
        "listen.ingest: \"nowhere\" is not an IP address",
        "alert.webhook: number 1 is not an http or https URL",
        "alert.webhook: number 3 is given twice",
        "clickhouse.user: means nothing without clickhouse.url",
        "clickhouse.memory-bytes: the engine needs at least 256MiB",
        "clickhouse.database: is not a plain name",
        "clickhouse.library: is no file",
        "ingest.batch-interval: lies outside 100ms to 1m (from environment variable ETCD_MONITOR_AGGREGATOR_INGEST_BATCH_INTERVAL)",
        "log.format: \"xml\" is not either text or json",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    assert!(text.starts_with("settings: 10 faults"), "{text}");
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    let text = faults(&["--listen-api", "127.0.0.1:8461"], &[]);
    assert!(text.contains("each needs its own"), "{text}");
    assert!(try_load(&["--listen-api", "127.0.0.1:0", "--listen-ingest", "127.0.0.1:0"], &[]).is_ok());
}

#[test]
fn an_external_server_takes_user_and_password_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "geheim\n").unwrap();
    let config = try_load(
        &[
            "--clickhouse-url",
            "https://ch:8443",
            "--clickhouse-user",
            "u",
            "--clickhouse-password-file",
            file.path().to_str().unwrap(),
        ],
        &[],
    )
    .unwrap();
    let ClickHouse::External { url, user, password, sql: None } = config.clickhouse else {
        panic!("external")
    };
    assert_eq!((url.as_str(), user.as_str(), password.reveal().as_str()), ("https://ch:8443", "u", "geheim"));
    assert!(faults(&["--clickhouse-url", "ch:8443"], &[]).contains("clickhouse.url: is not an http"));
}

#[test]
fn ingest_is_plain_on_loopback_and_wants_certificates_elsewhere() {
    let mode = |flags: &[&str]| try_load(flags, &[]).map(|config| config.ingest_tls.mode);
    assert_eq!(mode(&[]).unwrap(), TlsMode::Off);
    assert_eq!(mode(&["--listen-ingest", "0.0.0.0:1"]).unwrap(), TlsMode::Mutual);
    assert_eq!(mode(&["--listen-ingest", "0.0.0.0:1", "--listen-ingest-tls", "off"]).unwrap(), TlsMode::Off);
    assert_eq!(mode(&["--listen-ingest-tls", "on"]).unwrap(), TlsMode::On);
    let faults =
        mode(&["--listen-ingest-tls", "maybe", "--enrol-certificate-life", "1s"]).unwrap_err().to_string();
    assert!(
        faults.contains("is not auto, off, on or mutual") && faults.contains("enrol.certificate-life"),
        "{faults}"
    );
    let faults =
        mode(&["--listen-ingest-tls", "mutual", "--enrol-enabled", "false"]).unwrap_err().to_string();
    assert!(faults.contains("no agent could have a certificate"), "{faults}");
    let faults = mode(&["--listen-ingest-cert-file", "/nowhere"]).unwrap_err().to_string();
    assert!(faults.contains("can't be read") && faults.contains("needs listen.ingest-key-file"), "{faults}");
}

#[test]
fn sql_at_a_server_needs_a_user_of_its_own() {
    let url = ["--clickhouse-url", "http://127.0.0.1:8123", "--clickhouse-user", "writer"];
    let config = try_load(&[&url[..], &["--clickhouse-sql-user", "reader"]].concat(), &[]).unwrap();
    let ClickHouse::External { sql: Some((user, _)), .. } = config.clickhouse else { panic!("external") };
    assert_eq!(user, "reader");
    let text = faults(&[&url[..], &["--clickhouse-sql-user", "writer"]].concat(), &[]);
    assert!(text.contains("needs one that only reads"), "{text}");
    let text = faults(&["--clickhouse-sql-user", "reader"], &[]);
    assert!(text.contains("means nothing without clickhouse.url"), "{text}");
}

#[test]
fn the_clickhouse_interface_is_off_and_needs_a_password() {
    assert!(try_load(&[], &[]).unwrap().clickhouse_port.is_none());
    let text = faults(&["--listen-clickhouse", "127.0.0.1:0"], &[]);
    assert!(text.contains("needs listen.clickhouse-password-file"), "{text}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(file.path(), "short\n").unwrap();
    let text =
        faults(&["--listen-clickhouse", "127.0.0.1:0", "--listen-clickhouse-password-file", path], &[]);
    assert!(text.contains("at least 16 characters") && !text.contains("short"), "{text}");
    std::fs::write(file.path(), "fedcba9876543210\n").unwrap();
    let args = ["--listen-clickhouse", "127.0.0.1:0", "--listen-clickhouse-password-file", path];
    let config = try_load(&args, &[]).unwrap();
    assert_eq!(config.clickhouse_port.as_ref().unwrap().user, "viewer");
    assert!(!format!("{config:?}").contains("fedcba"), "secrets are not shown");
    let text = faults(&["--listen-clickhouse-password-file", path], &[]);
    assert!(text.contains("means nothing without listen.clickhouse"), "{text}");
}
