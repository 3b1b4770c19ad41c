//! Why a sync was slow, and who did it.

pub mod evidence;
