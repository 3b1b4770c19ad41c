use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::endpoint::connect;
use crate::scrape::Scraper;

#[test]
fn certificate_files_that_do_not_read_are_named() {
    let files = TlsFiles { ca: Some(PathBuf::from("/none/ca.crt")), ..TlsFiles::default() };
    let error = tls_config(&files, &Names::Any, b"h2").expect_err("no such file");
    assert!(error.to_string().contains("/none/ca.crt"), "{error}");
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Certificate and key for a name, valid until a year.
    fn sign(&self, name: &str, until: i32) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.not_before = date_time_ymd(2000, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
        (parameters.signed_by(&key, &self.issuer).expect("signed").pem(), key.serialize_pem())
    }
}

/// A server with this certificate that asks its clients for one of the same authority, and answers with one word.
async fn serve(authority: &Authority, (cert, key): (String, String)) -> Endpoint {
    let mut roots = RootCertStore::empty();
    let parse = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    roots.add(parse(&authority.pem)).expect("an authority");
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("an authority");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![parse(&cert)], key)
        .expect("they fit together");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\netcd_up 1\n";
            let mut request = [0; 1_024];
            // A client that is gone needs no answer.
            let _gone = (stream.read(&mut request).await, stream.write_all(answer).await);
        }
    });
    Endpoint { host: "127.0.0.1".to_owned(), port, tls: true }
}

fn access(directory: &Path, authority: &str, client: Option<(String, String)>, names: Names) -> Access {
    let own = tempfile::tempdir_in(directory).expect("the directory is writable").keep();
    let write = |name: &str, pem: &str| {
        let path = own.join(name);
        fs::write(&path, pem).expect("the directory is writable");
        path
    };
    let mut files = TlsFiles { ca: Some(write("ca", authority)), ..TlsFiles::default() };
    if let Some((cert, key)) = client {
        (files.cert, files.key) = (Some(write("cert", &cert)), Some(write("key", &key)));
    }
    Access { identities: vec![files], names }
}

/// The page, or why there is none, with all causes.
async fn page(endpoint: &Endpoint, access: Access) -> String {
    match Scraper::new(endpoint.clone(), access).page(|| ()).await {
        Ok((page, ())) => page,
        Err(error) => {
            let mut causes = vec![error.to_string()];
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                causes.push(error.to_string());
                cause = error.source();
            }
            causes.join(": ")
        }
    }
}

#[tokio::test]
async fn each_fault_of_certificates_is_named() {
    // Another test may have installed it already; all install the same.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let client = || Some(ours.sign("client", 2999));
    let good = serve(&ours, ours.sign("127.0.0.1", 2999)).await;
    let expired = serve(&ours, ours.sign("127.0.0.1", 2001)).await;
    let elsewhere = serve(&ours, ours.sign("etcd.invalid", 2999)).await;
    let named = Names::As("etcd.invalid".try_into().expect("a name"));
    for (endpoint, access, expected) in [
        (&good, access(directory.path(), &ours.pem, client(), Names::Address), "etcd_up 1"),
        (&good, access(directory.path(), &foreign.pem, client(), Names::Address), "UnknownIssuer"),
        (&good, access(directory.path(), &ours.pem, None, Names::Address), "CertificateRequired"),
        (&good, access(directory.path(), &ours.pem, Some(foreign.sign("c", 2999)), Names::Address), "alert"),
        (&expired, access(directory.path(), &ours.pem, client(), Names::Any), "certificate expired"),
        (&elsewhere, access(directory.path(), &ours.pem, client(), Names::Address), "not valid for name"),
        (&elsewhere, access(directory.path(), &ours.pem, client(), named), "etcd_up 1"),
        (&elsewhere, access(directory.path(), &ours.pem, client(), Names::Any), "etcd_up 1"),
    ] {
        let said = page(endpoint, access).await;
        assert!(said.contains(expected), "{expected} is not in: {said}");
    }
}

#[tokio::test]
async fn it_is_known_whether_the_connection_was_accepted() {
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let good = serve(&ours, ours.sign("127.0.0.1", 2999)).await;
    let access = access(directory.path(), &foreign.pem, None, Names::Address);
    let tls = access.for_attempt(&good, 0, b"h2").expect("the files read");
    let mut reached = false;
    let refused = connect(&good, tls, || reached = true).await.err();
    assert!(refused.is_some() && reached, "{refused:?}");
}
