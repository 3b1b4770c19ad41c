//! What a process has of the machine: descriptors, threads, and kernel objects of bpf(2), seen from outside of it.

use std::collections::BTreeMap;

/// `BPF_MAP_GET_NEXT_KEY`, `BPF_MAP_GET_FD_BY_ID`, `BPF_OBJ_GET_INFO_BY_FD`, `BPF_MAP_TYPE_HASH`.
const NEXT_KEY: i32 = 4;
const MAP_BY_ID: i32 = 14;
const INFO: i32 = 15;
const HASH: u32 = 1;

/// Everything that must not grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// But for files of processes that live, of which there are more the more threads an etcd has.
    pub descriptors: usize,
    pub threads: usize,
    /// Open kernel objects: `prog_id`, `map_id`, `link_id`.
    pub objects: BTreeMap<String, usize>,
    /// Entries of the hash maps that are not LRU, by name.
    pub entries: BTreeMap<String, usize>,
}

/// Whether a descriptor is of a file of a process that lives.
fn is_of_live_process(descriptor: &std::fs::DirEntry) -> bool {
    let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
    let mut parts = target.iter().skip(1);
    let is_proc = parts.next().is_some_and(|part| part == "proc");
    is_proc && parts.next().is_some_and(|process| std::path::Path::new("/proc").join(process).exists())
}

/// Of a process; needs root.
pub fn holdings(pid: u32) -> Holdings {
    let (mut objects, mut maps) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for (what, id) in text.lines().filter_map(|line| line.split_once(':')) {
            if matches!(what, "prog_id" | "map_id" | "link_id") {
                *objects.entry(what.to_owned()).or_default() += 1;
            }
            if what == "map_id" {
                maps.push(id.trim().parse::<u32>().unwrap());
            }
        }
    }
    let entries = maps.into_iter().filter_map(entries).collect();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let descriptors = open.filter(|descriptor| !is_of_live_process(descriptor)).count();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    Holdings { descriptors, threads, objects, entries }
}

fn bpf(command: i32, request: &mut [u64]) -> i64 {
    // SAFETY: the request is as long as is said, and what it points to is alive during the call.
    unsafe { libc::syscall(libc::SYS_bpf, command, request.as_mut_ptr(), size_of_val(request)) }
}

/// Name and number of entries of a hash map.
fn entries(id: u32) -> Option<(String, usize)> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let descriptor = bpf(MAP_BY_ID, &mut [u64::from(id), 0]);
    if descriptor < 0 {
        return None;
    }
    // SAFETY: just made for us.
    let map = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    let number = u64::from(map.as_raw_fd().cast_unsigned());
    // bpf_map_info: type, id, key size, value size, entries, flags, name (include/uapi/linux/bpf.h).
    let mut info = [0_u32; 10];
    let length = size_of_val(&info) as u64;
    assert_eq!(bpf(INFO, &mut [number | length << 32, info.as_mut_ptr() as u64]), 0);
    if info[0] != HASH {
        return None;
    }
    let name: Vec<u8> =
        info[6..].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    let (mut key, mut next) = (vec![0_u8; info[2] as usize], vec![0_u8; info[2] as usize]);
    let (mut found, limit) = (0, 2 * info[4] as usize);
    let mut from = 0;
    while found < limit && bpf(NEXT_KEY, &mut [number, from, next.as_mut_ptr() as u64]) == 0 {
        std::mem::swap(&mut key, &mut next);
        from = key.as_ptr() as u64;
        found += 1;
    }
    Some((String::from_utf8_lossy(&name).into_owned(), found))
}
