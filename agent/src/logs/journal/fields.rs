//! What the fields of an entry tell: whose it is, and where its message is.

use super::super::line::Level;
use super::bytes::Fault;
use super::file::{Entry, JournalFile};
use super::payload::Payload;
use super::{LINE_LIMIT, Owner};

/// Longest `MESSAGE=…`.
const MESSAGE_LIMIT: usize = LINE_LIMIT + "MESSAGE=".len();

/// What one value of a file tells. Fields with `_` before them are journald's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Message,
    /// Compressed: it may be the message, which is the only one that is ever long.
    Packed,
    Pid(u32),
    /// It is the service's.
    Ours,
    /// It is journald's word on the service.
    AboutUs,
    /// The line came by standard output or error, where priorities mean nothing.
    Stream,
    /// It comes from journald itself.
    Driver,
    Priority(u8),
    /// The line goes on in the next entry.
    Cut,
    /// So many entries were refused.
    Refused(u64),
    Other,
}

/// What an entry tells.
#[derive(Debug, Default)]
pub struct Told {
    pub is_ours: bool,
    pub pid: u32,
    pub level: Option<Level>,
    pub is_cut: bool,
    pub refused: u64,
    message: Option<u64>,
    packed: Vec<u64>,
}

/// Tells entries of an owner from others.
#[derive(Debug)]
pub struct Fields {
    unit: Vec<u8>,
}

impl Fields {
    pub fn new(owner: Owner) -> Self {
        let unit = match owner {
            Owner::Unit(unit) => unit.into_bytes(),
            Owner::Process(_) => Vec::new(),
        };
        Self { unit }
    }

    /// Reads what the entry's values tell.
    pub fn of(&self, journal: &mut JournalFile<Field>, entry: &Entry, pid: u32) -> Result<Told, Fault> {
        let mut told = Told::default();
        let (mut is_stream, mut priority, mut refused) = (false, None, 0);
        let (mut is_driver, mut about_us) = (false, false);
        for at in &entry.items {
            match journal.tell(*at, |value| self.field(value))? {
                Field::Message => told.message = Some(*at),
                Field::Packed => told.packed.push(*at),
                Field::Pid(by) => {
                    told.pid = by;
                    told.is_ours |= by == pid;
                }
                Field::Ours => told.is_ours = true,
                Field::AboutUs => about_us = true,
                Field::Stream => is_stream = true,
                Field::Driver => is_driver = true,
                Field::Priority(level) => priority = Some(level),
                Field::Cut => told.is_cut = true,
                Field::Refused(count) => refused = count,
                Field::Other => {}
            }
        }
        told.level = priority.filter(|_| !is_stream).map(Level::of_priority);
        told.refused = if about_us && is_driver { refused } else { 0 };
        Ok(told)
    }

    fn field(&self, value: Option<(&[u8], u64)>) -> Field {
        let Some((value, length)) = value else { return Field::Packed };
        if value.starts_with(b"MESSAGE=") {
            return Field::Message;
        }
        // What is longer than its begin that was read is none of the others.
        if value.len() as u64 != length {
            return Field::Other;
        }
        let Some(equals) = memchr::memchr(b'=', value) else { return Field::Other };
        let (name, value) = (&value[..equals], &value[equals + 1..]);
        let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        let is_unit = !self.unit.is_empty() && value == self.unit;
        match name {
            b"_PID" => number().and_then(|pid| u32::try_from(pid).ok()).map_or(Field::Other, Field::Pid),
            b"_SYSTEMD_UNIT" | b"_SYSTEMD_USER_UNIT" if is_unit => Field::Ours,
            b"OBJECT_SYSTEMD_UNIT" if is_unit => Field::AboutUs,
            b"_TRANSPORT" if value == b"stdout" => Field::Stream,
            b"_TRANSPORT" if value == b"driver" => Field::Driver,
            b"PRIORITY" => number().and_then(|n| u8::try_from(n).ok()).map_or(Field::Other, Field::Priority),
            b"_LINE_BREAK" if value == b"line-max" => Field::Cut,
            b"N_DROPPED" => number().map_or(Field::Other, Field::Refused),
            _ => Field::Other,
        }
    }
}

impl Told {
    /// The message with the name of its field; `None` when it has none.
    pub fn message(
        &self,
        journal: &mut JournalFile<Field>,
        into: &mut Vec<u8>,
    ) -> Result<Option<Payload>, Fault> {
        into.clear();
        if let Some(at) = self.message {
            let outcome = journal.payload(at, MESSAGE_LIMIT, into)?;
            if outcome != Payload::Whole {
                into.clear();
            }
            return Ok(Some(outcome));
        }
        let mut outcome = None;
        for at in &self.packed {
            let unpacked = journal.payload(*at, MESSAGE_LIMIT, into)?;
            if unpacked == Payload::Whole && into.starts_with(b"MESSAGE=") {
                return Ok(Some(unpacked));
            }
            // Of several, which one was the message is not known: one of them was.
            if unpacked != Payload::Whole {
                outcome = Some(unpacked);
            }
        }
        into.clear();
        Ok(outcome)
    }
}
