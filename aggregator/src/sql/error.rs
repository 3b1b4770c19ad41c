//! Why a statement has no answer: ClickHouse's own words where it has any, and what to do about a limit.

use super::gate::Refusal;

/// A statement without an answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// SQL is not to be had with these settings.
    #[error("{0}")]
    Off(String),
    /// The store is away; asking again later can help.
    #[error("telemetry store is not available: {0}")]
    Unavailable(String),
    /// Other statements took all turns.
    #[error("other statements are running, as many as may at a time; ask again when one has ended")]
    Busy,
    /// It names what may not be named.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It would take more than it may.
    #[error("{text} — {advice}")]
    Limit {
        /// ClickHouse's code.
        code: u32,
        /// ClickHouse's words.
        text: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// It is wrong: it does not parse, names what is not there, or fails on its data.
    #[error("{text}")]
    Statement {
        /// ClickHouse's code.
        code: u32,
        /// ClickHouse's words, with the position where it knows one.
        text: String,
    },
    /// The store did not do what it should.
    #[error("{0}")]
    Failed(String),
    /// The connection to the store broke; what came so far is not all.
    #[error("the answer broke off")]
    Broken(#[source] reqwest::Error),
}

/// Codes of the limits, and what to do about each.
const ADVICE: [(&str, &[u32]); 4] = [
    (
        "ask for a narrower range of time, name the cluster first (tables are sorted by it), or read a table of sums such \
         as metrics_1m in place of metrics",
        &[158, 159, 160, 307, 394],
    ),
    ("add LIMIT, or let the database sum up: GROUP BY", &[396]),
    (
        "make fewer groups, join a smaller table on the right, or read fewer columns",
        &[173, 191, 241, 12, 131],
    ),
    ("write it shorter", &[167, 168]),
];

/// Codes after which asking again can help: the connection, or a shutdown.
const AWAY: [u32; 4] = [209, 210, 236, 425];

/// Codes that mean our own access is wrong.
const ACCESS: [u32; 4] = [192, 193, 194, 516];

impl SqlError {
    /// From the engine's text `Code: N. DB::Exception: …`. `before` is what stood in front of the user's own text on its
    /// first line: positions are put right by it.
    pub fn from_engine(text: &str, before: &str) -> Self {
        let text = text.trim();
        let code = code_of(text);
        let words = shifted(words(text), before.len());
        if AWAY.contains(&code) {
            return Self::Unavailable(words);
        }
        if ACCESS.contains(&code) {
            return Self::Off(format!("the store refuses the user for SQL: {words}"));
        }
        match ADVICE.iter().find(|(_, codes)| codes.contains(&code)) {
            Some((advice, _)) => Self::Limit { code, text: words, advice },
            None => Self::Statement { code, text: words },
        }
    }

    /// As ClickHouse says it: its code, and its words with the code.
    pub fn for_clickhouse(&self) -> (u32, String) {
        let code = match self {
            Self::Off(_) => 516,
            Self::Unavailable(_) | Self::Broken(_) => 210,
            Self::Busy => 202,
            Self::Refused(_) => 497,
            Self::Limit { code, .. } | Self::Statement { code, .. } => *code,
            Self::Failed(_) => 1002,
        };
        (code, format!("Code: {code}. DB::Exception: {self}\n"))
    }
}

/// The number in `Code: N.`; 0 when there is none.
pub fn code_of(text: &str) -> u32 {
    let digits = text.strip_prefix("Code: ").and_then(|rest| rest.split('.').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The words behind the code, which some errors carry twice.
fn words(mut text: &str) -> &str {
    while let Some(rest) = text.strip_prefix("Code: ") {
        match rest.split_once("DB::Exception: ") {
            Some((_, words)) => text = words,
            None => break,
        }
    }
    text
}

/// The words with every `position N` and `line 1, col N` moved to the left.
fn shifted(words: &str, by: usize) -> String {
    let moved = |text: String, mark: &str| -> String {
        let mut pieces = text.split(mark);
        let mut all = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
            all.push_str(mark);
            match piece[..digits].parse::<usize>() {
                Ok(position) => all.push_str(&position.saturating_sub(by).to_string()),
                Err(_) => all.push_str(&piece[..digits]),
            }
            all.push_str(&piece[digits..]);
        }
        all
    };
    if by == 0 {
        return words.to_owned();
    }
    moved(moved(words.to_owned(), "failed at position "), "(line 1, col ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_in_the_users_own_text() {
        let text = "Code: 62. DB::Exception: Syntax error: failed at position 20 (FROM) (line 1, col 20): FROM. (SYNTAX_ERROR)";
        let SqlError::Statement { code, text } = SqlError::from_engine(text, "EXPLAIN AST ") else {
            panic!()
        };
        assert_eq!(code, 62);
        assert_eq!(text, "Syntax error: failed at position 8 (FROM) (line 1, col 8): FROM. (SYNTAX_ERROR)");
        let second = "failed at position 34 (x) (line 2, col 11)";
        assert_eq!(shifted(second, 12), "failed at position 22 (x) (line 2, col 11)");
    }

    #[test]
    fn a_limit_comes_with_what_to_do_about_it() {
        let error = SqlError::from_engine("Code: 396. DB::Exception: Limit for result exceeded", "");
        assert!(matches!(error, SqlError::Limit { code: 396, .. }));
        assert!(error.to_string().contains("add LIMIT"), "{error}");
        let error = SqlError::from_engine("Code: 164. DB::Exception: Code: 164. DB::Exception: no", "");
        assert_eq!(error.for_clickhouse(), (164, "Code: 164. DB::Exception: no\n".to_owned()));
        assert!(matches!(SqlError::from_engine("Code: 210. DB::Exception: x", ""), SqlError::Unavailable(_)));
        assert!(matches!(SqlError::from_engine("garbage", ""), SqlError::Statement { code: 0, .. }));
    }
}
