//! Capabilities and what could bring them back.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, set_capabilities, set_capabilities_secure_bits,
};

pub use rustix::thread::CapabilitySet as Set;

/// What the calling process may do now.
///
/// # Errors
/// What the kernel says.
pub fn effective() -> Result<CapabilitySet> {
    capabilities(None).map(|sets| sets.effective)
}

/// Keeps only `kept` and makes sure that no program started from here ever gets more: bounding,
/// inheritable and ambient sets empty, user 0 without magic, all of it locked.
///
/// # Errors
/// What the kernel says.
pub fn confine(kept: CapabilitySet) -> Result<()> {
    let held = capabilities(None)?.permitted;
    if held.contains(CapabilitySet::SETPCAP) {
        set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT
                | CapabilitiesSecureBits::NO_ROOT_LOCKED
                | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
                | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
        )?;
        empty_bounding_set()?;
    }
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept & held,
            permitted: kept & held,
            inheritable: CapabilitySet::empty(),
        },
    )
}

fn empty_bounding_set() -> Result<()> {
    for number in 0..64_u32 {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match crate::check(result.into()) {
            Ok(_) => {}
            // The first number that this kernel does not know: all are done.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
