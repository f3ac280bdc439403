"""The MindSpore implementation. These variables must be set before MindSpore is imported, and before its first convolution."""

import os
import tempfile

os.environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX2')  # on AVX-512 MindSpore 2.9, 2.10 convolve 100 times slower
os.environ.setdefault('GLOG_v', '3')  # log errors only
# Folder of the compiler's output; by default MindSpore writes ./rank_0.
os.environ.setdefault('MS_OM_PATH', os.path.join(tempfile.gettempdir(), 'twinseg_mindspore'))
