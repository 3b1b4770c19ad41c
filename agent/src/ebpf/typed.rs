//! Loads the programs of typed tracepoints, which read the kernel's structures by plain loads; their twins that ask a helper
//! for each field stand in where the kernel refuses them or has the tracepoint in a module.

use aya::{
    Btf, BtfError, Ebpf,
    programs::{Program as AyaProgram, ProgramError},
};
use etcdmon_agent_ebpf::loss::Program;

use super::programs::reason;

/// Programs that keep what is under way in the same places, and so have to be of one kind.
const GROUPS: [&[Program]; 3] = [
    &[Program::SyncEnterFilesystem, Program::SyncExitFilesystem, Program::WriteEndFilesystem],
    &[
        Program::BlockIssue,
        Program::BlockComplete,
        Program::BlockMerge,
        Program::BlockStart,
        Program::BlockSubmit,
    ],
    &[
        Program::JournalStart,
        Program::JournalLocking,
        Program::JournalFlushing,
        Program::JournalLogging,
        Program::JournalEnd,
    ],
];

/// Programs that ask a helper for each field they read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untyped {
    /// Their names.
    pub programs: Vec<&'static str>,
    /// Why.
    pub reason: String,
}

/// A tracepoint and the function that was loaded for it.
pub(super) type Function = (&'static str, &'static str);

/// What became of each program that there is for typed tracepoints.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// The functions of a program; none where this kernel has none of its tracepoints. A program that is not here has to be
    /// loaded the other way.
    pub functions: Vec<(Program, Vec<Function>)>,
    /// Those that are not here.
    pub untyped: Vec<Untyped>,
}

/// Loads a group's programs, or none of them.
fn load_group(
    ebpf: &mut Ebpf,
    btf: &Btf,
    group: &[Program],
) -> Result<Vec<(Program, Vec<Function>)>, String> {
    let mut functions = Vec::new();
    let mut load = || {
        for program in group {
            let mut found = Vec::new();
            for &(tracepoint, function) in program.typed() {
                let Some(AyaProgram::BtfTracePoint(typed)) = ebpf.program_mut(function) else {
                    return Err(format!("{function} is not in the object"));
                };
                match typed.load(tracepoint, btf) {
                    Ok(()) => found.push((tracepoint, function)),
                    Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) => {}
                    Err(error) => return Err(format!("{function}: {}", reason(&error))),
                }
            }
            // Only how requests begin is seen in another way where this kernel is too old for the first one.
            if found.is_empty() && *program != Program::BlockStart {
                let tracepoint = program.typed().first().map_or("tracepoint", |(tracepoint, _)| tracepoint);
                return Err(format!("the kernel's own types have no {tracepoint}: it is in a module"));
            }
            functions.push((*program, found));
        }
        Ok(())
    };
    let outcome = load();
    if let Err(why) = outcome {
        for (_, function) in group.iter().flat_map(|program| program.typed()) {
            if let Some(AyaProgram::BtfTracePoint(typed)) = ebpf.program_mut(function) {
                // Those that came before the one that failed; the others say that they are not loaded.
                let _ = typed.unload();
            }
        }
        return Err(why);
    }
    Ok(functions)
}

/// Loads as many programs of typed tracepoints as this kernel takes.
pub(super) fn load(ebpf: &mut Ebpf) -> Loaded {
    let btf = Btf::from_sys_fs().map_err(|error| format!("read the kernel's types: {error}"));
    let mut loaded = Loaded::default();
    for group in GROUPS {
        match btf.as_ref().map_err(Clone::clone).and_then(|btf| load_group(ebpf, btf, group)) {
            Ok(functions) => loaded.functions.extend(functions),
            Err(reason) => {
                let programs = group.iter().map(|program| program.name()).collect();
                loaded.untyped.push(Untyped { programs, reason });
            }
        }
    }
    loaded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_a_typed_tracepoint_is_in_one_group() {
        for program in Program::ALL {
            let groups = GROUPS.iter().filter(|group| group.contains(&program)).count();
            assert_eq!(groups, usize::from(!program.typed().is_empty()), "{}", program.name());
        }
    }
}
