//! The statements of `hostile.txt`, and mutations of them.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A statement that must do no harm.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    /// An error is the only answer.
    pub refused: bool,
    pub statement: Vec<u8>,
}

/// What `{canary}`, `{scratch}` and `{listener}` stand for.
pub struct Places {
    pub canary: String,
    pub scratch: String,
    pub listener: String,
}

/// All statements of the file.
pub fn cases(places: &Places) -> Vec<Case> {
    let text = include_str!("hostile.txt");
    let blocks = text.split("\n#### ").skip(1);
    let cases: Vec<Case> = blocks.map(|block| case(block, places)).collect();
    assert!(cases.len() > 150, "{}", cases.len());
    cases
}

fn case(block: &str, places: &Places) -> Case {
    let (head, statement) = block.split_once('\n').unwrap();
    let (name, expected) = head.split_once(" | ").unwrap();
    let statement = expand(statement)
        .replace("{canary}", &places.canary)
        .replace("{scratch}", &places.scratch)
        .replace("{listener}", &places.listener);
    let statement = if expected.ends_with(" bytes") { bytes(&statement) } else { statement.into_bytes() };
    let refused = expected.starts_with("refused");
    assert!(refused || expected.starts_with("bounded"), "{head}");
    Case { name: name.to_owned(), refused, statement }
}

/// Writes out `{N*text}` and `{N#item|separator}`.
fn expand(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find('{') {
        let (before, from) = rest.split_at(begin);
        all.push_str(before);
        let digits: String = from[1..].chars().take_while(char::is_ascii_digit).collect();
        let (mark, end) = (from[1 + digits.len()..].chars().next(), from.find('}'));
        let (Some(mark @ ('*' | '#')), Some(end), Ok(count)) = (mark, end, digits.parse::<usize>()) else {
            all.push('{');
            rest = &from[1..];
            continue;
        };
        let body = &from[2 + digits.len()..end];
        if mark == '*' {
            all.push_str(&body.repeat(count));
        } else {
            let (item, separator) = body.rsplit_once('|').unwrap();
            let item = |n: usize| item.replace("@+", &(n + 1).to_string()).replace('@', &n.to_string());
            all.push_str(&(0..count).map(item).collect::<Vec<_>>().join(separator));
        }
        rest = &from[end + 1..];
    }
    all + rest
}

/// Bytes for `\xNN`.
fn bytes(text: &str) -> Vec<u8> {
    let mut pieces = text.split("\\x");
    let mut all = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        all.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        all.extend_from_slice(&piece.as_bytes()[2..]);
    }
    all
}

/// `count` statements made of those given, the same for the same seed.
pub fn mutations(cases: &[Case], seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(seed);
    let short: Vec<&[u8]> = cases
        .iter()
        .map(|case| case.statement.as_slice())
        .filter(|statement| statement.len() < 300)
        .collect();
    let splices: [&[u8]; 14] = [
        b"'",
        b"`",
        b"\"",
        b"--",
        b"/*",
        b"*/",
        b";",
        b"(",
        b")",
        b"\\",
        b"\0",
        b"\n",
        b" UNION ALL SELECT ",
        b" INTO OUTFILE 'x' ",
    ];
    let mut made = Vec::with_capacity(count);
    while made.len() < count {
        let mut statement = short[random.random_range(0..short.len())].to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..=statement.len());
            match random.random_range(0..5) {
                0 if !statement.is_empty() => {
                    statement.remove(at.min(statement.len() - 1));
                }
                1 if !statement.is_empty() => {
                    let at = at.min(statement.len() - 1);
                    statement[at] = random.random();
                }
                2 => {
                    let other = short[random.random_range(0..short.len())];
                    let from = random.random_range(0..=other.len());
                    statement.truncate(at);
                    statement.extend_from_slice(&other[from..]);
                }
                3 => {
                    let case: Vec<u8> = statement.iter().map(|byte| flip(*byte, &mut random)).collect();
                    statement = case;
                }
                _ => {
                    let splice = splices[random.random_range(0..splices.len())];
                    statement.splice(at..at, splice.iter().copied());
                }
            }
        }
        made.push(statement);
    }
    made
}

fn flip(byte: u8, random: &mut StdRng) -> u8 {
    if byte.is_ascii_alphabetic() && random.random_range(0..8) == 0 { byte ^ 0x20 } else { byte }
}
