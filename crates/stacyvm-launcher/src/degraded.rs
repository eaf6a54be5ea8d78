//! What a sandbox goes without, in sentences for the person who runs the server.

pub(crate) const SINGLE_ID: &str = "each sandbox has one user id only, and files of any other \
     owner belong to nobody in it, and with the image `host` it reads what the server's own user \
     keeps private below `/usr`: the server does not run as root; run it as root for a range of \
     ids for each sandbox";

pub(crate) const SHARED_NODES: &str = "the nodes in `/dev` are the host's own, so a watch or a lock \
     on one of them reaches other sandboxes and the host: the server does not run as root; run it \
     as root for nodes that each sandbox has for itself";

pub(crate) const NO_ID_MAPPING: &str = "files of the image belong to nobody inside and cannot be \
     changed: their file system cannot map ids; keep images on ext4, xfs, btrfs or tmpfs and use \
     Linux 5.19 or later";

pub(crate) const NO_LANDLOCK: &str = "sandboxes are not confined by Landlock: the kernel has \
     none, or only its first version; use Linux 5.19 or later with `landlock` in the `lsm=` boot \
     parameter";
