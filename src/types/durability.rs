//! How far a message has come on its way to the disk.

/// How far a message has come on its way to the disk.
///
/// Levels compare by what they survive: `Volatile < Written < Synced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// It is in memory. It ends with the process.
    Volatile,
    /// The system has it. It survives the process and `kill -9`, but not a power cut.
    Written,
    /// The disk has it: it was synced. It survives a power cut, unless the disk lies.
    #[default]
    Synced,
}

labels!(Durability {
    Self::Volatile => "volatile",
    Self::Written => "written",
    Self::Synced => "synced",
});
