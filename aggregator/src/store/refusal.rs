//! What ClickHouse says when it will never take these rows, told apart from everything that passes.
//!
//! Only an answer of ClickHouse itself counts, and only codes that are about what was sent. Lost connections, time-outs,
//! a full disk (243), too many parts (252), memory (241), missing tables or rights: all of these pass or are an
//! operator's to mend, and rows wait for that in their agents' spools.

use super::flush::AttemptError;

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Values: other rows may well be taken.
    Values,
    /// The table: it is not as this program knows it, so no row is taken until somebody changes that.
    Schema,
}

/// A definite refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// ClickHouse's error code.
    pub code: u32,
    /// What it is about.
    pub about: About,
    /// What ClickHouse said.
    pub text: String,
}

/// Codes about values: what can't be parsed or converted, is out of range or too large, or violates a constraint.
const VALUES: [u32; 26] = [
    6, 25, 26, 27, 33, 38, 41, 43, 53, 69, 70, 72, 117, 128, 131, 190, 321, 349, 376, 395, 407, 469, 561,
    675, 676, 691,
];

/// Codes about the table's columns.
const SCHEMA: [u32; 5] = [10, 16, 20, 44, 47];

impl Refusal {
    /// The refusal behind a failed attempt; `None` when it may work out another time.
    pub fn of(error: &AttemptError) -> Option<Self> {
        let AttemptError::Statement { what: "insert", source } = error else { return None };
        let clickhouse::error::Error::BadResponse(text) = source else { return None };
        let digits = text.strip_prefix("Code: ")?.split('.').next()?;
        let code = digits.parse().ok()?;
        let about = match code {
            code if VALUES.contains(&code) => About::Values,
            code if SCHEMA.contains(&code) => About::Schema,
            _ => return None,
        };
        Some(Self { code, about, text: text.chars().take(500).collect() })
    }
}

#[cfg(test)]
mod tests {
    use clickhouse::error::Error;

    use super::*;

    fn said(what: &'static str, text: &str) -> Option<Refusal> {
        Refusal::of(&AttemptError::Statement { what, source: Error::BadResponse(text.to_owned()) })
    }

    #[test]
    fn only_definite_answers_about_the_rows_are_refusals() {
        let refusal = said("insert", "Code: 469. DB::Exception: Constraint …").unwrap();
        assert_eq!((refusal.code, refusal.about), (469, About::Values));
        assert_eq!(said("insert", "Code: 16. DB::Exception: No such column").unwrap().about, About::Schema);
        for passes in [
            "Code: 241. DB::Exception: Memory limit",
            "Code: 243. DB::Exception: Cannot reserve",
            "Code: 252. DB::Exception: Too many parts",
            "Code: 60. DB::Exception: Unknown table",
            "Code: 394. DB::Exception: Query was cancelled",
            "Code: 497. DB::Exception: Not enough privileges",
            "Code: 1001. std::exception: No space left on device",
            "Code: 4690. DB::Exception: no such code",
            "502 Bad Gateway",
            "",
        ] {
            assert_eq!(said("insert", passes), None, "{passes}");
        }
        assert_eq!(said("ask for rows", "Code: 47. DB::Exception: Unknown column"), None, "a question");
        let lost = AttemptError::Statement { what: "insert", source: Error::TimedOut };
        assert_eq!(Refusal::of(&lost), None);
        assert_eq!(Refusal::of(&AttemptError::Missing { table: "syncs" }), None);
    }
}
