//! The files of enrolment.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use etcdmon_proto::v1;
use etcdmon_service::secret::Secret;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use super::EnrolError;
use super::token::JoinToken;
use crate::connect::certificate::Validity;
use crate::connect::tls::IdentityFiles;

/// The directory of an agent's credentials.
#[derive(Debug, Clone)]
pub struct Files {
    directory: PathBuf,
}

/// A certificate that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// When it was stored.
    pub since: OffsetDateTime,
    /// End of its life.
    pub not_after: OffsetDateTime,
}

impl Stored {
    /// When it is to be renewed, at this part of its life.
    pub fn due(&self, part: f64) -> OffsetDateTime {
        self.since + (self.not_after - self.since) * part
    }
}

impl Files {
    /// In the agent's state directory.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("credentials");
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { directory }),
        }
    }

    /// Certificate and key.
    pub fn identity(&self) -> IdentityFiles {
        let path = self.path("agent.pem");
        IdentityFiles { certificate: path.clone(), key: path }
    }

    /// Whom to trust; it may not be there.
    pub fn authorities(&self) -> PathBuf {
        self.path("authorities.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The certificate that is there.
    ///
    /// # Errors
    /// When it can't be read. One that does not parse is none.
    pub fn read(&self) -> Result<Option<Stored>, EnrolError> {
        let path = self.path("agent.pem");
        let failed = |source| failure("read", &path, source);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let since = fs::metadata(&path).and_then(|facts| facts.modified()).map_err(failed)?.into();
        let first = CertificateDer::pem_slice_iter(&bytes).next().and_then(Result::ok);
        let validity = first.and_then(|der| Validity::of(&der));
        Ok(validity.map(|validity| Stored { since, not_after: validity.not_after }))
    }

    /// A key and the request for a certificate of it (PKCS #10, DER); the same key until an answer is stored.
    ///
    /// # Errors
    /// When the key can't be made or kept.
    pub fn request(&self) -> Result<(Secret, Vec<u8>), EnrolError> {
        let path = self.path("pending.key");
        let kept = fs::read_to_string(&path).ok().and_then(|text| KeyPair::from_pem(&text).ok());
        let key = match kept {
            Some(key) => key,
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(EnrolError::Key)?;
                self.write("pending.key", &key.serialize_pem())?;
                key
            }
        };
        let request = CertificateParams::default().serialize_request(&key).map_err(EnrolError::Key)?;
        Ok((Secret::new(key.serialize_pem()), request.der().to_vec()))
    }

    /// Keeps what the aggregator answered.
    ///
    /// # Errors
    /// When it makes no sense or can't be written.
    pub fn store(&self, key: &Secret, reply: &v1::EnrolReply) -> Result<Stored, EnrolError> {
        let first = reply.certificate_chain.first().and_then(|der| Validity::of(der));
        let validity = first.ok_or(EnrolError::Answer("it has no certificate"))?;
        if reply.authorities.iter().any(|der| Validity::of(der).is_none()) {
            return Err(EnrolError::Answer("an authority in it is no certificate"));
        }
        if !reply.authorities.is_empty() {
            self.write("authorities.pem", &pem(&reply.authorities))?;
        }
        self.write("agent.pem", &format!("{}{}", key.reveal(), pem(&reply.certificate_chain)))?;
        // One that stays is only used once more.
        let _absent = fs::remove_file(self.path("pending.key"));
        Ok(Stored { since: OffsetDateTime::now_utc(), not_after: validity.not_after })
    }

    /// Whether this token has brought a certificate before.
    pub fn was_used(&self, token: &JoinToken) -> bool {
        fs::read_to_string(self.path("token-used")).is_ok_and(|text| text.trim() == token.digest)
    }

    /// Notes that this token has brought a certificate.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn note_used(&self, token: &JoinToken) -> Result<(), EnrolError> {
        self.write("token-used", &format!("{}\n", token.digest))
    }

    /// All of it or nothing.
    fn write(&self, name: &str, text: &str) -> Result<(), EnrolError> {
        let (path, temporary) = (self.path(name), self.path(&format!("{name}.new")));
        let written = || -> io::Result<()> {
            // One left by a crash may have other rights.
            let _absent = fs::remove_file(&temporary);
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&temporary, &path)
        };
        written().map_err(|source| failure("write", &path, source))
    }
}

fn failure(attempt: &'static str, path: &Path, source: io::Error) -> EnrolError {
    EnrolError::File { attempt, path: path.display().to_string(), source }
}

fn pem(certificates: &[Vec<u8>]) -> String {
    let encode = |der: &Vec<u8>| pem_text(der);
    certificates.iter().map(encode).collect()
}

/// RFC 7468.
fn pem_text(der: &[u8]) -> String {
    ::pem::encode_config(
        &::pem::Pem::new("CERTIFICATE", der),
        ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn files() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().expect("temp dir");
        let files = Files::open(directory.path()).expect("made");
        (directory, files)
    }

    fn reply() -> v1::EnrolReply {
        let key = KeyPair::generate().expect("a key");
        let der = CertificateParams::default().self_signed(&key).expect("a certificate").der().to_vec();
        v1::EnrolReply { certificate_chain: vec![der.clone()], authorities: vec![der], ..Default::default() }
    }

    #[test]
    fn what_is_stored_reads_back_and_is_for_the_owner_only() {
        let (_directory, files) = files();
        assert_eq!(files.read().expect("nothing yet"), None);
        let (key, _) = files.request().expect("a request");
        let stored = files.store(&key, &reply()).expect("stored");
        let read = files.read().expect("read").expect("there");
        assert_eq!(read.not_after, stored.not_after);
        for path in [files.identity().key, files.authorities()] {
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&files.directory).expect("there").permissions().mode() & 0o777, 0o700);
        assert!(!files.path("pending.key").exists());
    }

    #[test]
    fn a_request_is_asked_with_the_same_key_until_it_is_answered() {
        let (_directory, files) = files();
        let (first, _) = files.request().expect("a request");
        let (second, _) = files.request().expect("again");
        assert_eq!(first, second);
        files.store(&first, &reply()).expect("stored");
        assert_ne!(files.request().expect("the next").0, first);
        fs::write(files.path("pending.key"), "torn").expect("written");
        assert!(files.request().is_ok(), "a torn key is replaced");
    }

    #[test]
    fn an_answer_without_sense_changes_nothing() {
        let (_directory, files) = files();
        let (key, _) = files.request().expect("a request");
        for bad in [
            v1::EnrolReply::default(),
            v1::EnrolReply { certificate_chain: vec![vec![1, 2, 3]], ..Default::default() },
            v1::EnrolReply { authorities: vec![vec![1]], ..reply() },
        ] {
            assert!(matches!(files.store(&key, &bad), Err(EnrolError::Answer(_))));
        }
        assert_eq!(files.read().expect("read"), None);
        assert!(!files.authorities().exists());
    }

    #[test]
    fn it_is_renewed_after_its_part_of_life() {
        let since = OffsetDateTime::UNIX_EPOCH;
        let stored = Stored { since, not_after: since + time::Duration::seconds(300) };
        assert_eq!(stored.due(2.0 / 3.0) - since, time::Duration::seconds(200));
    }
}
