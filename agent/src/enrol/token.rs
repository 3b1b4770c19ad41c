//! Join tokens, as the agent needs them: `emt1.ID.SECRET.PIN` (see the aggregator's module of the same name).

use sha2::{Digest as _, Sha256};

/// A token. Its debug form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the whole text, as hexadecimal digits.
    pub digest: String,
    /// The authority to trust; `None` when the settings say it.
    pub pin: Option<String>,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("JoinToken").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// Reads one. `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (prefix, id, secret, pin) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        let whole = parts.next().is_none()
            && prefix == "emt1"
            && digits(id, 16)
            && digits(secret, 64)
            && (pin.is_empty() || digits(pin, 64));
        whole.then(|| Self {
            digest: Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect(),
            pin: Some(pin.to_owned()).filter(|pin| !pin.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_may_name_whom_to_trust() {
        let (id, secret, pin) = ("0".repeat(16), "1".repeat(64), "a".repeat(64));
        let with = JoinToken::parse(&format!("emt1.{id}.{secret}.{pin}")).expect("a token");
        let without = JoinToken::parse(&format!("emt1.{id}.{secret}.")).expect("a token");
        assert_eq!((with.pin.as_deref(), without.pin.as_deref()), (Some(pin.as_str()), None));
        assert_ne!(with.digest, without.digest);
        assert!(!format!("{with:?}").contains("1111"));
        for bad in [
            String::new(),
            format!("emt1.{id}.{secret}"),
            format!("emt2.{id}.{secret}."),
            format!("emt1.{id}.{secret}.x"),
        ] {
            assert_eq!(JoinToken::parse(&bad), None, "{bad}");
        }
    }
}
