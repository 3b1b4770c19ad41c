use super::*;

const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
   1: 0100007F:094C 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";

#[test]
fn only_listeners_count() {
    assert_eq!(listener(TCP, 2379), Some(4711));
    assert_eq!(listener(TCP, 2380), None, "a connection is no listener");
    assert_eq!(listener("garbage\n0: x\n\n", 2379), None);
}

#[test]
fn an_expired_certificate_a_foreign_key_and_a_missing_file_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let make = |from: i32, to: i32| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    // 2026-11-21
    let now_ns = 1_795_262_400 * SECOND_NS;
    let cause = |cert: &str, key: &str| {
        let files = TlsFiles { cert: write("c.crt", cert), key: write("c.key", key), ca: None };
        certificates(&files, now_ns).map(|finding| (finding.cause, finding.evidence))
    };
    let (good, key) = make(2020, 2040);
    let (old, old_key) = make(2020, 2021);
    let (future, future_key) = make(2030, 2040);
    assert_eq!(cause(&good, &key), None);
    let (found, evidence) = cause(&old, &old_key).unwrap();
    assert!(
        found == "certificate_expired" && evidence.contains("expired on") && evidence.contains("2021"),
        "{evidence}"
    );
    assert!(cause(&future, &future_key).unwrap().1.contains("not valid before"));
    assert_eq!(cause(&good, &old_key).unwrap().0, "certificate_key_mismatch");
    let files = TlsFiles { cert: Some(directory.path().join("none.crt")), key: None, ca: None };
    assert_eq!(certificates(&files, now_ns).unwrap().cause, "certificate_unreadable");
    assert_eq!(certificates(&TlsFiles::default(), now_ns), None);
}
