use super::*;

fn line(arguments: &[&str]) -> Vec<u8> {
    let mut bytes = arguments.join("\0").into_bytes();
    bytes.push(0);
    bytes
}

#[test]
fn every_way_to_write_a_flag_is_read() {
    let options = Options::from_process(
        &line(&[
            "etcd",
            "--name=a",
            "--data-dir",
            "/d",
            "-wal-dir=/w",
            "--auto-tls",
            "--quota-backend-bytes",
            "-1",
        ]),
        b"",
    );
    assert_eq!(options.value("name"), Some("a"));
    assert_eq!(options.value("data-dir"), Some("/d"));
    assert_eq!(options.value("wal-dir"), Some("/w"));
    assert_eq!(options.value("quota-backend-bytes"), Some("-1"));
    assert!(options.is_on("auto-tls"));
    assert_eq!(options.value("listen-metrics-urls"), None);
}

#[test]
fn a_boolean_flag_does_not_swallow_the_next_flag_or_word() {
    let options = Options::from_process(&line(&["etcd", "--client-cert-auth", "--name", "b"]), b"");
    assert!(options.is_on("client-cert-auth"));
    assert_eq!(options.value("name"), Some("b"));
    let options = Options::from_process(&line(&["etcd", "--client-cert-auth=false"]), b"");
    assert!(!options.is_on("client-cert-auth"));
}

#[test]
fn a_flag_beats_its_variable_and_the_last_flag_wins() {
    let environment =
        b"PATH=/bin\0ETCD_NAME=env\0ETCD_DATA_DIR=/env\0ETCD_LISTEN_CLIENT_URLS=http://a:1,http://b:2\0";
    let options = Options::from_process(&line(&["etcd", "--name=x", "--name=y"]), environment);
    assert_eq!(options.value("name"), Some("y"));
    assert_eq!(options.value("data-dir"), Some("/env"));
    assert_eq!(options.parts("listen-client-urls"), ["http://a:1", "http://b:2"]);
}

#[test]
fn a_configuration_file_is_flattened_to_flags() {
    let options = Options::from_file(
        "name: m1\ndata-dir: /var/lib/etcd\nquota-backend-bytes: 0\nlisten-client-urls: https://10.0.0.1:2379\n\
         client-transport-security:\n  cert-file: /c.crt\n  client-cert-auth: true\n\
         peer-transport-security:\n  cert-file: /p.crt\nlog-outputs: [stderr]\n",
    )
    .expect("valid");
    assert_eq!(options.value("name"), Some("m1"));
    assert_eq!(options.value("cert-file"), Some("/c.crt"));
    assert_eq!(options.value("peer-cert-file"), Some("/p.crt"));
    assert_eq!(options.value("quota-backend-bytes"), Some("0"));
    assert!(options.is_on("client-cert-auth"));
}

#[test]
fn garbage_gives_no_options_and_no_panic() {
    assert!(Options::from_file("- a\n- b").is_err());
    assert!(Options::from_file("{{{").is_err());
    let options =
        Options::from_process(&[0xff, 0, b'-', 0xfe, b'=', 0xff, 0, b'-', b'-', 0, 0], &[0xff, 0, b'=', 0]);
    assert_eq!(options.value("name"), None);
    assert_eq!(options.value(""), None);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
                              environment in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _options = Options::from_process(&line, &environment);
        let _outcome = Options::from_file(&String::from_utf8_lossy(&line));
    }
}
