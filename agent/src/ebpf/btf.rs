//! Reads offsets of structure members from the kernel's own type information (BTF), as described in the kernel's
//! Documentation/bpf/btf.rst. Only what is asked for is resolved; nothing foreign makes it panic.

/// BTF that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or of the other byte order.
    #[error("no btf header of this machine's byte order")]
    Header,
    /// A part lies outside the file.
    #[error("btf ends early at byte {at}")]
    Truncated {
        /// Where in the file.
        at: usize,
    },
    /// A kind of type this parser does not know, so that it can't tell where the next one begins.
    #[error("btf type {id} is of unknown kind {kind}")]
    Kind {
        /// Number of the type.
        id: usize,
        /// Number of the kind.
        kind: u32,
    },
}

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

const POINTER: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNCTION_TYPE: u32 = 13;
const TYPE_TAG: u32 = 18;

const PARAMETER_BYTES: usize = 8;

/// Anonymous members may nest; real kernels stay below five.
const DEEPEST: usize = 16;

/// Types by number, and their names.
#[derive(Debug)]
pub struct Btf<'a> {
    /// What the numbers of types and places of names go on from: a module's BTF only has what the kernel's has not.
    base: Option<&'a Self>,
    /// The section of types.
    types: &'a [u8],
    /// The section of strings.
    strings: &'a [u8],
    /// Where in `types` each type begins; type 0 is `void` and has no entry.
    begins: Vec<u32>,
    /// Of those the structures and unions with a name, which are a tenth.
    structures: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    /// The section of types it is in.
    section: &'a [u8],
    name: u32,
    kind: u32,
    members: usize,
    has_bit_fields: bool,
    /// Size or type, by kind.
    target: u32,
    /// Where its members begin.
    body: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Bytes that follow the twelve of a type.
fn body_bytes(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // FWD, FUNC, PTR, the modifiers, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // ENUM, FUNC_PROTO
        6 | 13 => members * 8,
        // STRUCT, UNION, DATASEC, ENUM64
        4 | 5 | 15 | 19 => members * 12,
        _ => return None,
    })
}

impl<'a> Btf<'a> {
    /// Finds where each type begins.
    ///
    /// # Errors
    /// When the bytes are not BTF, end early or hold a kind that is not known.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        Self::parse_above(None, bytes)
    }

    /// The same for the BTF of a module, which stands on the kernel's.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_above(base: Option<&'a Self>, bytes: &'a [u8]) -> Result<Self, BtfError> {
        if u16_at(bytes, 0) != Some(MAGIC) {
            return Err(BtfError::Header);
        }
        let number = |at| u32_at(bytes, at).map(|value| value as usize).ok_or(BtfError::Truncated { at });
        let header = number(4)?;
        let section = |offset: usize, length: usize| {
            let begin = header.checked_add(offset).ok_or(BtfError::Header)?;
            let end = begin.checked_add(length).ok_or(BtfError::Header)?;
            bytes.get(begin..end).ok_or(BtfError::Truncated { at: bytes.len() })
        };
        let types = section(number(8)?, number(12)?)?;
        let strings = section(number(16)?, number(20)?)?;
        let mut btf = Self { base, types, strings, begins: Vec::new(), structures: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            let found = btf.type_at(at).ok_or(BtfError::Truncated { at })?;
            let id = btf.begins.len() + 1;
            let body =
                body_bytes(found.kind, found.members).ok_or(BtfError::Kind { id, kind: found.kind })?;
            let begin = u32::try_from(at).map_err(|_| BtfError::Header)?;
            btf.begins.push(begin);
            if matches!(found.kind, STRUCT | UNION) && found.name != 0 {
                btf.structures.push(begin);
            }
            at = found.body + body;
            if at > types.len() {
                return Err(BtfError::Truncated { at: types.len() });
            }
        }
        Ok(btf)
    }

    fn type_at(&self, at: usize) -> Option<Type<'a>> {
        let info = u32_at(self.types, at + 4)?;
        Some(Type {
            section: self.types,
            name: u32_at(self.types, at)?,
            kind: (info >> 24) & 0x1f,
            members: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 == 1,
            target: u32_at(self.types, at + 8)?,
            body: at + TYPE_BYTES,
        })
    }

    fn type_of(&self, id: u32) -> Option<Type<'a>> {
        let below = self.base.map_or(0, |base| base.begins.len());
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        match index.checked_sub(below) {
            Some(own) => self.type_at(*self.begins.get(own)? as usize),
            None => self.base?.type_of(id),
        }
    }

    fn name_is(&self, name: u32, wanted: &str) -> bool {
        let below = self.base.map_or(0, |base| base.strings.len());
        let Some(own) = (name as usize).checked_sub(below) else {
            return self.base.is_some_and(|base| base.name_is(name, wanted));
        };
        let wanted = wanted.as_bytes();
        let Some(rest) = self.strings.get(own..) else { return false };
        rest.starts_with(wanted) && rest.get(wanted.len()) == Some(&0)
    }

    /// Offset in bytes of a member, given as `structure.member.member…`. Members of anonymous structures and unions
    /// are found in the structure around them. `None` if there is no such member, or it does not begin at a byte.
    ///
    /// Of several structures of one name the first that has the member counts: modules and static structures in
    /// drivers may carry the name of a well-known one.
    pub fn offset(&self, path: &str) -> Option<u32> {
        let mut parts = path.split('.');
        let structure = parts.next()?;
        let members: Vec<&str> = parts.collect();
        if members.is_empty() {
            return None;
        }
        self.structures.iter().find_map(|begin| {
            let outer = self.type_at(*begin as usize)?;
            if !self.name_is(outer.name, structure) {
                return None;
            }
            let bits = self.offset_in(outer, &members)?;
            (bits % 8 == 0).then_some(bits / 8)
        })
    }

    /// Whether the first argument of a raw tracepoint points to a structure of this name, by the type `btf_trace_EVENT` of
    /// functions that hang on it. `None` if this kernel has no such event.
    pub fn first_argument_is(&self, event: &str, structure: &str) -> Option<bool> {
        let name = format!("btf_trace_{event}");
        let mut types = self.begins.iter().filter_map(|begin| self.type_at(*begin as usize));
        let hook = types.find(|found| found.kind == TYPEDEF && self.name_is(found.name, &name))?;
        let pointer = self.type_of(hook.target).filter(|found| found.kind == POINTER)?;
        let function = self.type_of(pointer.target).filter(|found| found.kind == FUNCTION_TYPE)?;
        if function.members < 2 {
            return Some(false);
        }
        // Before it comes what whoever hangs on it left there.
        let argument = u32_at(function.section, function.body + PARAMETER_BYTES + 4)?;
        let pointer = self.type_of(argument).filter(|found| found.kind == POINTER);
        let pointed = pointer.and_then(|pointer| self.structure(pointer.target));
        Some(pointed.is_some_and(|found| self.name_is(found.name, structure)))
    }

    fn offset_in(&self, outer: Type<'a>, path: &[&str]) -> Option<u32> {
        let (first, rest) = path.split_first()?;
        let (bits, member) = self.member(outer, first, 0)?;
        if rest.is_empty() {
            return Some(bits);
        }
        let inner = self.structure(member)?;
        bits.checked_add(self.offset_in(inner, rest)?)
    }

    /// Bit offset and type of a member by name.
    fn member(&self, outer: Type<'a>, name: &str, depth: usize) -> Option<(u32, u32)> {
        if depth > DEEPEST {
            return None;
        }
        (0..outer.members).find_map(|index| {
            let at = outer.body + index * MEMBER_BYTES;
            let member_name = u32_at(outer.section, at)?;
            let member_type = u32_at(outer.section, at + 4)?;
            let offset = u32_at(outer.section, at + 8)?;
            // With bit fields the upper byte is the field's width.
            let bits = if outer.has_bit_fields { offset & 0xff_ffff } else { offset };
            if member_name != 0 {
                return self.name_is(member_name, name).then_some((bits, member_type));
            }
            let (inner_bits, inner_type) = self.member(self.structure(member_type)?, name, depth + 1)?;
            Some((bits.checked_add(inner_bits)?, inner_type))
        })
    }

    /// The structure or union behind typedefs and qualifiers.
    fn structure(&self, mut id: u32) -> Option<Type<'a>> {
        for _ in 0..DEEPEST {
            let found = self.type_of(id)?;
            match found.kind {
                STRUCT | UNION => return Some(found),
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = found.target,
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
