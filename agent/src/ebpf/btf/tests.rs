use proptest::prelude::*;

use super::*;

/// Writes BTF by hand, so that the parser is tested against the format and not against itself.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    fn name(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.types.extend(word.to_ne_bytes()));
    }

    fn plain(&mut self, name: &str, kind: u32, target: u32, extra: &[u32]) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24, target]);
        self.words(extra);
        self.count += 1;
        self.count
    }

    fn aggregate(&mut self, kind: u32, name: &str, bit_fields: bool, members: &[(&str, u32, u32)]) -> u32 {
        let name = self.name(name);
        self.words(&[name, u32::from(bit_fields) << 31 | kind << 24 | members.len() as u32, 64]);
        for (member, type_id, offset) in members {
            let member = self.name(member);
            self.words(&[member, *type_id, *offset]);
        }
        self.count += 1;
        self.count
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, self.types.len() as u32, self.types.len() as u32, self.strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

/// `struct name { struct { u32 hash; u32 len; }; const unsigned char *text; }` inside a qualified typedef in a union,
/// as the kernel's dentry has it, with every other kind around.
fn sample() -> Vec<u8> {
    let mut btf = Writer::new();
    let int = btf.plain("unsigned int", 1, 4, &[0x20]);
    let pointer = btf.plain("", 2, int, &[]);
    btf.plain("", 3, 0, &[int, int, 4]);
    btf.plain("colour", 6 << 24 >> 24, 4, &[]);
    btf.plain("forward", 7, 0, &[]);
    btf.plain("function", 12, 0, &[]);
    btf.plain("variable", 14, int, &[0]);
    btf.plain("", 16, 8, &[]);
    btf.plain("tag", 17, int, &[0]);
    let halves = btf.aggregate(4, "", false, &[("hash", int, 0), ("len", int, 32)]);
    let both = btf.aggregate(5, "", false, &[("", halves, 0), ("hash_len", int, 0)]);
    let text = btf.aggregate(4, "qstr", false, &[("", both, 0), ("name", pointer, 64)]);
    let alias = btf.plain("qstr_t", 8, text, &[]);
    let constant = btf.plain("", 10, alias, &[]);
    let names = btf.aggregate(5, "", false, &[("__d_name", text, 0), ("d_name", constant, 0)]);
    btf.aggregate(4, "dentry", false, &[("d_flags", int, 0), ("", names, 256), ("odd", int, 3)]);
    btf.aggregate(4, "flags", true, &[("low", int, 3 << 24), ("high", int, 29 << 24 | 64)]);
    btf.aggregate(4, "twice", false, &[("a", int, 0)]);
    btf.aggregate(4, "twice", false, &[("b", int, 128)]);
    btf.finish()
}

#[test]
fn members_are_found_through_anonymous_parts_typedefs_and_qualifiers() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).expect("valid");
    assert_eq!(btf.offset("dentry.d_flags"), Some(0));
    assert_eq!(btf.offset("dentry.d_name.len"), Some(36));
    assert_eq!(btf.offset("dentry.d_name.hash_len"), Some(32));
    assert_eq!(btf.offset("dentry.d_name.name"), Some(40));
    assert_eq!(btf.offset("dentry.__d_name.name"), Some(40));
    assert_eq!(btf.offset("flags.high"), Some(8));
    assert_eq!(btf.offset("twice.b"), Some(16));
}

#[test]
fn the_types_of_a_module_stand_on_the_kernels() {
    let mut kernel = Writer::new();
    let int = kernel.plain("unsigned int", 1, 4, &[0x20]);
    let list = kernel.aggregate(4, "list_head", false, &[("next", int, 0), ("prev", int, 64)]);
    let mut module = Writer::new();
    // Its numbers go on where the kernel's end, as do the places of its names.
    module.count = kernel.count;
    let base_strings = kernel.strings.len() as u32;
    let kernel = kernel.finish();
    module.aggregate(4, "journal_s", false, &[("j_list", list, 64), ("j_dev", int, 192)]);
    let mut module = module.finish();
    shift_names(&mut module, base_strings);
    let kernel = Btf::parse(&kernel).expect("valid");
    let module = Btf::parse_above(Some(&kernel), &module).expect("valid");
    assert_eq!(module.offset("journal_s.j_dev"), Some(24));
    assert_eq!(module.offset("journal_s.j_list.prev"), Some(16));
    assert_eq!(kernel.offset("journal_s.j_dev"), None);
}

/// Moves the places of the names of the one structure with two members that these bytes have.
fn shift_names(bytes: &mut [u8], by: u32) {
    for at in [24, 24 + 12, 24 + 24] {
        let name = u32_at(bytes, at).expect("a structure") + by;
        bytes[at..at + 4].copy_from_slice(&name.to_ne_bytes());
    }
}

#[test]
fn the_first_argument_of_an_event_is_told() {
    let mut btf = Writer::new();
    let queue = btf.aggregate(4, "request_queue", false, &[("a", 0, 0)]);
    let to_queue = btf.plain("", 2, queue, &[]);
    let int = btf.plain("int", 1, 4, &[0x20]);
    let anything = btf.plain("", 2, 0, &[]);
    let mut event = |name: &str, arguments: &[u32]| {
        let parameters: Vec<u32> =
            std::iter::once(&anything).chain(arguments).flat_map(|id| [0, *id]).collect();
        let function = btf.plain("", 13, 0, &[]);
        // How many there are stands beside the kind.
        let at = btf.types.len() - 8;
        btf.types[at..at + 4].copy_from_slice(&((13 << 24) | (parameters.len() as u32 / 2)).to_ne_bytes());
        btf.words(&parameters);
        let pointer = btf.plain("", 2, function, &[]);
        btf.plain(name, 8, pointer, &[]);
    };
    event("btf_trace_with", &[to_queue, int]);
    event("btf_trace_without", &[int, to_queue]);
    event("btf_trace_other", &[anything]);
    event("btf_trace_none", &[]);
    let bytes = btf.finish();
    let btf = Btf::parse(&bytes).expect("valid");
    let is = |event| btf.first_argument_is(event, "request_queue");
    assert_eq!(is("with"), Some(true));
    for event in ["without", "other", "none"] {
        assert_eq!(is(event), Some(false), "{event}");
    }
    assert_eq!(is("nothing"), None);
    assert_eq!(btf.first_argument_is("with", "request"), Some(false));
}

#[test]
fn what_is_not_there_has_no_offset() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).expect("valid");
    for path in [
        "",
        "dentry",
        "dentry.",
        "dentry.nothing",
        "nothing.d_name",
        "dentry.d_flags.x",
        "dentry.odd",
        "qst.name",
    ] {
        assert_eq!(btf.offset(path), None, "{path}");
    }
}

#[test]
fn a_structure_that_contains_itself_ends() {
    let mut btf = Writer::new();
    btf.aggregate(4, "loop", false, &[("", 1, 0)]);
    btf.plain("", 10, 2, &[]);
    let bytes = btf.finish();
    let btf = Btf::parse(&bytes).expect("valid");
    assert_eq!(btf.offset("loop.member"), None);
    assert!(btf.structure(2).is_none());
}

#[test]
fn every_truncation_is_an_error_or_finds_nothing_wrong() {
    let bytes = sample();
    for length in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn an_unknown_kind_is_named() {
    let mut btf = Writer::new();
    btf.plain("", 1, 4, &[0]);
    btf.plain("", 31, 0, &[]);
    assert_eq!(Btf::parse(&btf.finish()).map(|_| ()), Err(BtfError::Kind { id: 2, kind: 31 }));
}

#[test]
fn the_running_kernels_btf_is_understood() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        eprintln!("skipped: this kernel has no /sys/kernel/btf/vmlinux");
        return;
    };
    let btf = Btf::parse(&bytes).expect("the kernel's own");
    assert_eq!(btf.offset("list_head.prev"), Some(8));
    assert_eq!(btf.offset("hlist_head.first"), Some(0));
    assert!(btf.offset("task_struct.pid").is_some());
}

proptest! {
    #[test]
    fn no_change_of_a_byte_makes_it_panic(at in 0usize..700, value: u8) {
        let mut bytes = sample();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(btf) = Btf::parse(&bytes) {
            for path in ["dentry.d_name.len", "flags.high", "twice.b", "qstr.name"] {
                let _ = btf.offset(path);
            }
            let _ = btf.first_argument_is("with", "request_queue");
        }
    }

    #[test]
    fn no_garbage_makes_it_panic(mut bytes: Vec<u8>) {
        let _ = Btf::parse(&bytes).map(|btf| btf.offset("a.b"));
        if bytes.len() >= 2 {
            bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
            let _ = Btf::parse(&bytes).map(|btf| btf.offset("a.b"));
        }
    }
}
