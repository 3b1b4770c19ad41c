//! The Native format as clients of newer protocol revisions read it.
//!
//! The embedded engine writes blocks as for revision 0: number of columns, number of rows, and of each column its name, its
//! type and its values. A client that sends `client_protocol_version` reads them as that revision has them: in front of each
//! block its info (from 1 on), and behind each type a byte that says whether the values are written in a way of their own
//! (from 54454 on; they never are). Where a column ends follows from its type alone, so that a block is walked through
//! and nothing in it is changed.

use bytes::{Buf as _, Bytes, BytesMut};

/// From this revision on a byte behind each type tells of custom serialization.
const WITH_CUSTOM_SERIALIZATION: u64 = 54_454;

/// Info of a block that is a part of nothing: field 1 (overflows) no, field 2 (bucket) −1, end.
const BLOCK_INFO: [u8; 8] = [1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];

/// Largest block. The engine's have some ten thousand rows.
const MAX_BLOCK_BYTES: usize = 128 << 20;

/// Deepest type that is looked into.
const MAX_DEPTH: usize = 32;

/// Bytes that are no block this can read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NativeError {
    /// A type whose values have no end that could be told.
    #[error("columns of type {0} can't be written for this client: cast them, such as by toString")]
    Type(String),
    /// Something else than a block.
    #[error("the engine's block can't be read")]
    Damaged,
}

/// Why a walk stops.
enum Stop {
    /// The rest has not come yet.
    More,
    Bad(NativeError),
}

/// Rewrites blocks for a client. What comes in may be cut anywhere.
pub struct Rewriter {
    revision: u64,
    pending: BytesMut,
    /// No use in trying again before there is as much.
    least: usize,
}

impl Rewriter {
    /// For a client of this revision.
    pub fn new(revision: u64) -> Self {
        Self { revision, pending: BytesMut::new(), least: 1 }
    }

    /// Takes bytes in, and gives the blocks that are whole by now.
    ///
    /// # Errors
    /// When they can't be read: nothing that follows can be.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Bytes, NativeError> {
        self.pending.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while self.pending.len() >= self.least {
            let mut walk = Walk { bytes: &self.pending, position: 0 };
            match walk.block(self.revision) {
                Ok(marks) => {
                    let end = walk.position;
                    self.write(&marks, end, &mut out);
                    self.pending.advance(end);
                    self.least = 1;
                }
                Err(Stop::Bad(error)) => return Err(error),
                Err(Stop::More) if self.pending.len() > MAX_BLOCK_BYTES => return Err(NativeError::Damaged),
                // Twice as much before the next try, so that a large block is not walked a thousand times.
                Err(Stop::More) => self.least = self.pending.len() + (self.pending.len() / 4).max(1),
            }
        }
        Ok(out.freeze())
    }

    /// The last blocks, once nothing more comes.
    ///
    /// # Errors
    /// When a block is cut off.
    pub fn finish(&mut self) -> Result<Bytes, NativeError> {
        self.least = 1;
        let rest = self.push(&[])?;
        if self.pending.is_empty() { Ok(rest) } else { Err(NativeError::Damaged) }
    }

    /// A block with what the revision adds: `marks` are the places behind its types.
    fn write(&self, marks: &[usize], end: usize, out: &mut BytesMut) {
        if self.revision > 0 {
            out.extend_from_slice(&BLOCK_INFO);
        }
        let mut copied = 0;
        for mark in marks {
            out.extend_from_slice(&self.pending[copied..*mark]);
            out.extend_from_slice(&[0]);
            copied = *mark;
        }
        out.extend_from_slice(&self.pending[copied..end]);
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Walk<'a> {
    /// Walks through a block; where its types end, if that matters to the revision.
    fn block(&mut self, revision: u64) -> Result<Vec<usize>, Stop> {
        let (columns, rows) = (self.varint()?, self.varint()?);
        let mut marks = Vec::new();
        for _ in 0..columns {
            let length = self.varint()?;
            self.skip(length)?;
            let length = self.varint()?;
            let name =
                std::str::from_utf8(self.take(length)?).map_err(|_| Stop::Bad(NativeError::Damaged))?;
            let kind = parse(name).ok_or_else(|| Stop::Bad(NativeError::Type(name.to_owned())))?;
            if revision >= WITH_CUSTOM_SERIALIZATION {
                marks.push(self.position);
            }
            if rows > 0 {
                self.skip(8 * kind.dictionaries())?;
                self.values(&kind, rows)?;
            }
        }
        Ok(marks)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let begin = self.position;
        self.skip(count)?;
        Ok(&self.bytes[begin..self.position])
    }

    fn skip(&mut self, count: usize) -> Result<(), Stop> {
        let end = self.position.checked_add(count).ok_or(Stop::Bad(NativeError::Damaged))?;
        if end > self.bytes.len() {
            return Err(Stop::More);
        }
        self.position = end;
        Ok(())
    }

    fn varint(&mut self) -> Result<usize, Stop> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| Stop::Bad(NativeError::Damaged));
            }
        }
        Err(Stop::Bad(NativeError::Damaged))
    }

    fn number(&mut self) -> Result<usize, Stop> {
        let mut bytes = self.take(8)?;
        usize::try_from(bytes.get_u64_le()).map_err(|_| Stop::Bad(NativeError::Damaged))
    }

    fn many(&mut self, count: usize, size: usize) -> Result<(), Stop> {
        self.skip(count.checked_mul(size).ok_or(Stop::Bad(NativeError::Damaged))?)
    }

    /// The last of so many offsets: how many elements there are.
    fn offsets(&mut self, rows: usize) -> Result<usize, Stop> {
        let Some(before) = rows.checked_sub(1) else { return Ok(0) };
        self.many(before, 8)?;
        self.number()
    }

    fn values(&mut self, kind: &Kind, rows: usize) -> Result<(), Stop> {
        match kind {
            Kind::Fixed(size) => self.many(rows, *size),
            Kind::Text => {
                for _ in 0..rows {
                    let length = self.varint()?;
                    self.skip(length)?;
                }
                Ok(())
            }
            Kind::Nullable(inner) => {
                self.skip(rows)?;
                self.values(inner, rows)
            }
            Kind::Array(inner) => {
                let elements = self.offsets(rows)?;
                self.values(inner, elements)
            }
            Kind::Tuple(inner) => inner.iter().try_for_each(|inner| self.values(inner, rows)),
            Kind::Dictionary(inner) => self.dictionary(inner, rows),
        }
    }

    /// Values of LowCardinality: keys of their own, then an index for each row.
    fn dictionary(&mut self, inner: &Kind, rows: usize) -> Result<(), Stop> {
        if rows == 0 {
            return Ok(());
        }
        let flags = self.number()?;
        let keys = self.number()?;
        self.values(inner, keys)?;
        let indexes = self.number()?;
        match flags & 0xff {
            size @ 0..=3 if indexes == rows => self.many(indexes, 1 << size),
            _ => Err(Stop::Bad(NativeError::Damaged)),
        }
    }
}

/// How the values of a type are laid out.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Fixed(usize),
    Text,
    Nullable(Box<Kind>),
    /// Also a map, which is a list of pairs.
    Array(Box<Kind>),
    Tuple(Vec<Kind>),
    /// LowCardinality, with the kind of its keys.
    Dictionary(Box<Kind>),
}

impl Kind {
    /// Versions of dictionaries that are written before all values.
    fn dictionaries(&self) -> usize {
        match self {
            Self::Fixed(_) | Self::Text => 0,
            Self::Nullable(inner) | Self::Array(inner) => inner.dictionaries(),
            Self::Tuple(inner) => inner.iter().map(Self::dictionaries).sum(),
            Self::Dictionary(_) => 1,
        }
    }
}

/// The layout of a type; `None` for those that are not known here.
fn parse(name: &str) -> Option<Kind> {
    parse_to(name, MAX_DEPTH)
}

fn parse_to(name: &str, depth: usize) -> Option<Kind> {
    let depth = depth.checked_sub(1)?;
    let name = name.trim();
    let (base, arguments) = match name.split_once('(') {
        Some((base, rest)) => (base, split(rest.strip_suffix(')')?)),
        None => (name, Vec::new()),
    };
    let one = |position: usize| arguments.get(position).and_then(|argument| parse_to(argument, depth));
    let fixed = match base {
        "UInt8" | "Int8" | "Bool" | "Enum8" | "Nothing" => 1,
        "UInt16" | "Int16" | "Date" | "Enum16" | "BFloat16" => 2,
        "UInt32" | "Int32" | "Float32" | "Date32" | "DateTime" | "IPv4" | "Time" | "Decimal32" => 4,
        "UInt64" | "Int64" | "Float64" | "DateTime64" | "Time64" | "Decimal64" => 8,
        "UInt128" | "Int128" | "UUID" | "IPv6" | "Decimal128" => 16,
        "UInt256" | "Int256" | "Decimal256" => 32,
        "FixedString" => arguments.first()?.parse().ok()?,
        "Decimal" => match arguments.first()?.parse::<u8>().ok()? {
            0..=9 => 4,
            10..=18 => 8,
            19..=38 => 16,
            _ => 32,
        },
        _ if base.starts_with("Interval") => 8,
        "String" => return Some(Kind::Text),
        "Nullable" => return Some(Kind::Nullable(Box::new(one(0)?))),
        "Array" => return Some(Kind::Array(Box::new(one(0)?))),
        "Map" => return Some(Kind::Array(Box::new(Kind::Tuple(vec![one(0)?, one(1)?])))),
        "LowCardinality" => {
            // Null is a key like others.
            let keys = match one(0)? {
                Kind::Nullable(inner) => *inner,
                inner => inner,
            };
            return Some(Kind::Dictionary(Box::new(keys)));
        }
        "SimpleAggregateFunction" => return one(1),
        "Tuple" => {
            let inner = arguments.iter().map(|argument| {
                // An element may have a name, which may be quoted.
                parse_to(argument, depth).or_else(|| parse_to(after_name(argument)?, depth))
            });
            return Some(Kind::Tuple(inner.collect::<Option<_>>()?));
        }
        _ => return None,
    };
    Some(Kind::Fixed(fixed))
}

/// Arguments, at commas that stand in no brackets and no quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut quote, mut escaped, mut begin) = (0usize, None, false, 0);
    let mut parts = Vec::new();
    for (position, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '`' | '"') => quote = Some(letter),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(text[begin..position].trim());
                begin = position + 1;
            }
            _ => {}
        }
    }
    parts.push(text[begin..].trim());
    parts
}

/// What follows the name of a tuple's element.
fn after_name(argument: &str) -> Option<&str> {
    match argument.strip_prefix('`') {
        Some(quoted) => quoted.split_once("` ").map(|(_, kind)| kind),
        None => argument.split_once(' ').map(|(_, kind)| kind),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(text.len()).unwrap()];
        bytes.extend(text.as_bytes());
        bytes
    }

    /// As the engine writes `SELECT a, s` of two rows.
    fn block() -> Vec<u8> {
        let mut block = vec![2, 2];
        block.extend(text("a"));
        block.extend(text("UInt64"));
        block.extend([7u64, 8].iter().flat_map(|number| number.to_le_bytes()));
        block.extend(text("s"));
        block.extend(text("LowCardinality(String)"));
        // Version, flags, three keys, two indexes of a byte.
        block.extend([1u64, 0x600, 3].iter().flat_map(|number| number.to_le_bytes()));
        block.extend([text(""), text("x"), text("yy")].concat());
        block.extend(2u64.to_le_bytes());
        block.extend([1, 2]);
        block
    }

    fn rewritten(bytes: &[u8], revision: u64, cut: usize) -> Result<Vec<u8>, NativeError> {
        let mut rewriter = Rewriter::new(revision);
        let mut all = Vec::new();
        for piece in bytes.chunks(cut) {
            all.extend(rewriter.push(piece)?);
        }
        all.extend(rewriter.finish()?);
        Ok(all)
    }

    #[test]
    fn a_revision_adds_what_it_must_and_changes_nothing_else() {
        let block = block();
        assert_eq!(rewritten(&block, 0, 5).unwrap(), block);
        let mut with_info = BLOCK_INFO.to_vec();
        with_info.extend(&block);
        assert_eq!(rewritten(&block, 54_405, 7).unwrap(), with_info);
        let two = [block.clone(), block.clone()].concat();
        let new = rewritten(&two, 54_460, 3).unwrap();
        assert_eq!(new.len(), two.len() + 2 * (8 + 2));
        // Behind the info, two counts, the name and the type of the first column.
        assert_eq!(new[8 + 2 + 2 + 7], 0);
    }

    #[test]
    fn layouts_follow_from_types() {
        assert_eq!(parse("Map(LowCardinality(String), UInt64)").unwrap().dictionaries(), 1);
        assert_eq!(parse("DateTime64(9, 'UTC')"), Some(Kind::Fixed(8)));
        assert_eq!(parse("Enum8('a, (' = 1, 'b\\'' = 2)"), Some(Kind::Fixed(1)));
        assert_eq!(parse("Decimal(38, 2)"), Some(Kind::Fixed(16)));
        let tuple = Kind::Tuple(vec![Kind::Fixed(1), Kind::Nullable(Box::new(Kind::Text))]);
        assert_eq!(parse("Tuple(a UInt8, `b c` Nullable(String))"), Some(tuple));
        for unknown in [
            "AggregateFunction(uniq, UInt64)",
            "JSON",
            "Variant(String, UInt8)",
            "Array(",
            "",
            &"Array(".repeat(99),
        ] {
            assert_eq!(parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_block_that_is_cut_off_or_of_an_unknown_type_is_an_error() {
        let block = block();
        assert_eq!(rewritten(&block[..block.len() - 1], 1, 10), Err(NativeError::Damaged));
        let unknown = [vec![1, 1], text("a"), text("JSON"), vec![0]].concat();
        assert_eq!(rewritten(&unknown, 1, 10), Err(NativeError::Type("JSON".to_owned())));
    }

    proptest! {
        #[test]
        fn blocks_cut_anywhere_are_the_same(cut in 1usize..300, revision in prop::sample::select(vec![0u64, 1, 54_460])) {
            let blocks = block().repeat(3);
            prop_assert_eq!(rewritten(&blocks, revision, cut).unwrap(), rewritten(&blocks, revision, 10_000).unwrap());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
            let _ = rewritten(&bytes, 54_460, cut);
        }
    }
}
