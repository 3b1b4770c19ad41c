//! Values that are never shown.

use std::fmt;

use crate::settings::ParseSetting;

/// A token, key or password. It shows as `***` wherever it is printed, and its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: zeroize::Zeroize = String>(zeroize::Zeroizing<T>);

impl<T: zeroize::Zeroize> Secret<T> {
    /// Wraps a value.
    pub fn new(value: impl Into<T>) -> Self {
        Self(zeroize::Zeroizing::new(value.into()))
    }

    /// The value, for its one legitimate use.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T: zeroize::Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl<T: zeroize::Zeroize> fmt::Display for Secret<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl ParseSetting for Secret {
    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(Self::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_nowhere_but_where_it_is_revealed() {
        let secret: Secret = Secret::new("hunter2");
        let bytes: Secret<Vec<u8>> = Secret::new(*b"hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?} {bytes:?}", Some(&secret)), "*** *** Some(***) ***");
        assert_eq!(secret.reveal(), "hunter2");
    }
}
