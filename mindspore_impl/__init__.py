"""The MindSpore implementation. These variables must stand before MindSpore is imported, and before its first convolution."""

import os
import tempfile

os.environ.setdefault('ONEDNN_MAX_CPU_ISA', 'AVX2')  # MindSpore 2.9, 2.10 on AVX-512 CPUs: else convolutions 100 times slower
os.environ.setdefault('GLOG_v', '3')  # errors only
os.environ.setdefault('MS_OM_PATH', os.path.join(tempfile.gettempdir(), 'twinseg_mindspore'))  # else it litters ./rank_0
