//! Join tokens: `emt1.ID.SECRET.PIN`, all in hexadecimal digits.
//!
//! *ID* (8 random bytes) names the token in logs and the API; *SECRET* (32 random bytes) is kept here only as its SHA-256;
//! *PIN* (32 bytes) is the SHA-256 of the public key of the authority that signed the aggregator's certificate, so that an
//! agent which has nothing but the token knows whom to trust. The pin is empty when the aggregator was given its
//! certificate: then the agent needs an authority of its own.

use etcdmon_service::secret::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a token begins with.
const PREFIX: &str = "emt1";

/// Longest token that is looked at, in bytes.
const LONGEST: usize = 256;

/// A token as an agent shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its name.
    pub id: String,
    secret: Secret,
    pin: String,
}

impl JoinToken {
    /// A new one.
    pub fn random(pin: &str) -> Self {
        let secret: [u8; 32] = rand::random();
        Self { id: hex(&rand::random::<[u8; 8]>()), secret: Secret::new(hex(&secret)), pin: pin.to_owned() }
    }

    /// Reads one. `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > LONGEST {
            return None;
        }
        let mut parts = text.split('.');
        let (prefix, id, secret, pin) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        let whole = parts.next().is_none()
            && prefix == PREFIX
            && digits(id, 16)
            && digits(secret, 64)
            && (pin.is_empty() || digits(pin, 64));
        whole.then(|| Self { id: id.to_owned(), secret: Secret::new(secret), pin: pin.to_owned() })
    }

    /// Its text: shown once, to whoever made it.
    pub fn text(&self) -> Secret {
        Secret::new(format!("{PREFIX}.{}.{}.{}", self.id, self.secret.reveal(), self.pin))
    }

    /// What is kept of the secret.
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.secret.reveal()))
    }

    /// Whether this is the token with the digest. Takes the same time wherever they differ.
    pub fn fits(&self, digest: &str) -> bool {
        self.digest().as_bytes().ct_eq(digest.as_bytes()).into()
    }
}

/// As lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_shows_its_secret_to_nobody() {
        let token = JoinToken::random(&"ab".repeat(32));
        let text = token.text();
        let read = JoinToken::parse(text.reveal()).unwrap();
        assert_eq!(read, token);
        assert!(read.fits(&token.digest()) && !read.fits(&JoinToken::random("").digest()));
        assert!(!format!("{token:?} {text:?}").contains(token.secret.reveal().as_str()));
        assert!(JoinToken::parse(&format!("  {}\n", JoinToken::random("").text().reveal())).is_some());
    }

    #[test]
    fn what_is_no_token_is_none() {
        let good = JoinToken::random("").text();
        let good = good.reveal();
        let long = "a".repeat(10_000);
        for bad in
            ["", "emt1", "emt1...", &good[1..], &good.replace("emt1", "emt2"), &format!("{good}x"), &long]
        {
            assert_eq!(JoinToken::parse(bad), None, "{bad}");
        }
    }
}
